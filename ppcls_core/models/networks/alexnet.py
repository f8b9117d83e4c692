"""AlexNet: the network. Its variant is the row of specs/alexnet.py."""

from __future__ import annotations

import math
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Uniform

from ppcls_core.models.networks.layers import Network, pooled_stages
from ppcls_core.models.specs.alexnet import AlexNetSpec


class AlexNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 47, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc8",)

    def __init__(self, spec: AlexNetSpec, num_classes: int) -> None:
        super().__init__()
        one, two, three, four, five = spec.widths
        self._conv1 = nn.Sequential(("_conv", _conv((3, one), 11, stride=4)))
        self._conv2 = nn.Sequential(("_conv", _conv((one, two), 5)))
        self._conv3 = _conv((two, three), 3)
        self._conv4 = _conv((three, four), 3)
        self._conv5 = nn.Sequential(("_conv", _conv((four, five), 3)))
        features = five * 6 * 6
        attr = _uniform(features)  # of all three linear layers, though the last two see fewer
        self._fc6 = nn.Linear(features, spec.hidden, attr, attr)
        self._fc7 = nn.Linear(spec.hidden, spec.hidden, attr, attr)
        self._fc8 = nn.Linear(spec.hidden, num_classes, attr, attr)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5, mode="downscale_in_infer")

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        last = [self._conv3, self.relu, self._conv4, self.relu, self._conv5, self.relu]
        return pooled_stages(x, [[self._conv1, self.relu], [self._conv2, self.relu], last], 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(self.features(x)["stage3"], 3, 2)
        # Nothing at 224 px, where the map is 6x6 already; PaddleClas refuses other sizes.
        x = F.adaptive_avg_pool2d(x, 6).flatten(1)
        x = self.relu(self._fc6(self.drop(x)))
        x = self.relu(self._fc7(self.drop(x)))
        return self._fc8(x)


def _conv(channels: tuple[int, int], kernel: int, stride: int = 1) -> nn.Conv2D:
    """With bias; padded to keep the size, the 11x11 one (stride 4) by 2."""
    attr = _uniform(channels[0] * kernel**2)
    padding = min(kernel // 2, 2)
    return nn.Conv2D(
        *channels, kernel, stride=stride, padding=padding, weight_attr=attr, bias_attr=attr
    )


def _uniform(fan_in: int) -> ParamAttr:
    bound = 1.0 / math.sqrt(fan_in)
    return ParamAttr(initializer=Uniform(-bound, bound))
