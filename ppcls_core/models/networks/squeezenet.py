"""SqueezeNet: the network. Its variants are the rows of specs/squeezenet.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import Network, global_average, pooled_stages
from ppcls_core.models.specs.squeezenet import SqueezeNetSpec


class Fire(nn.Layer):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones to four times as many each."""

    def __init__(self, before: int, squeezed: int) -> None:
        super().__init__()
        self._conv = _conv_relu((before, squeezed), 1)
        self._conv_path1 = _conv_relu((squeezed, 4 * squeezed), 1)
        self._conv_path2 = _conv_relu((squeezed, 4 * squeezed), 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv(x)
        return paddle.concat([self._conv_path1(x), self._conv_path2(x)], axis=1)


class SqueezeNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too.

    The classifier is a 1x1 convolution, whose positive parts are averaged: no logit is negative.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("_conv9",)

    def __init__(self, spec: SqueezeNetSpec, num_classes: int) -> None:
        super().__init__()
        kernel, before = spec.stem_kernel, spec.stem_width
        self._conv = nn.Conv2D(3, before, kernel, stride=2, padding=1 if kernel == 3 else 0)
        self.stages: list[list[nn.Layer]] = [[self._conv, nn.ReLU()]]
        number = 0
        for stage in spec.squeezed:
            self.stages.append([])
            for squeezed in stage:
                number += 1
                fire = self.add_sublayer(f"_conv{number}", Fire(before, squeezed))
                self.stages[-1].append(fire)
                before = 8 * squeezed
        self._drop = nn.Dropout(0.5, mode="downscale_in_infer")
        self._conv9 = nn.Conv2D(before, num_classes, 1)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return pooled_stages(x, self.stages, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._drop(self.features(x)["stage4"])
        return global_average(F.relu(self._conv9(x)))


def _conv_relu(channels: tuple[int, int], kernel: int) -> nn.Sequential:
    conv = nn.Conv2D(*channels, kernel, padding=kernel // 2)
    return nn.Sequential(("_conv", conv), ("relu", nn.ReLU()))
