"""GoogLeNet: the network. Its variant is the row of specs/googlenet.py."""

from __future__ import annotations

import math
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Uniform

from ppcls_core.models.networks.layers import Network, global_average
from ppcls_core.models.specs.googlenet import GoogLeNetSpec, Inception

_BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class InceptionBlock(nn.Layer):
    """Convolutions of three sizes and a max pooling side by side."""

    def __init__(self, before: int, row: Inception) -> None:
        super().__init__()
        self._conv1 = _conv((before, row.one), 1)
        self._conv3r = _conv((before, row.three_reduced), 1)
        self._conv3 = _conv((row.three_reduced, row.three), 3)
        self._conv5r = _conv((before, row.five_reduced), 1)
        self._conv5 = _conv((row.five_reduced, row.five), 5)
        self._convprj = _conv((before, row.pooled), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # As published: no ReLU after the reductions, where the paper has one.
        three, five = self._conv3(self._conv3r(x)), self._conv5(self._conv5r(x))
        pooled = self._convprj(F.max_pool2d(x, 3, 1, padding=1))
        return F.relu(paddle.concat([self._conv1(x), three, five, pooled], axis=1))


class GoogLeNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 45, odd ones too.

    In training a tuple of three logits: the classifier's and the two auxiliary ones', which see
    Inception 4a and 4d.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("_fc_out", "_out1", "_out2")

    def __init__(self, spec: GoogLeNetSpec, num_classes: int) -> None:
        super().__init__()
        stem, before = spec.stem_widths
        self._conv = _conv((3, stem), 7, stride=2)
        self._conv_1 = _conv((stem, stem), 1)
        self._conv_2 = _conv((stem, before), 3)
        outs = [row.one + row.three + row.five + row.pooled for row in spec.blocks]
        for name, row, after in zip(_BLOCKS, spec.blocks, outs, strict=True):
            self.add_sublayer(f"_ince{name}", InceptionBlock(before, row))
            before = after
        self._fc_out = _linear(before, num_classes, before)
        width, hidden = spec.auxiliary_widths
        # The fan-in is the paper's, of a map of 4x4; here it is of 3x3.
        self._conv_o1 = _conv((outs[_BLOCKS.index("4a")], width), 1)
        self._fc_o1 = _linear(3 * 3 * width, hidden, 4 * 4 * width)
        self._out1 = _linear(hidden, num_classes, hidden)
        self._conv_o2 = _conv((outs[_BLOCKS.index("4d")], width), 1)
        self._fc_o2 = _linear(3 * 3 * width, hidden, 4 * 4 * width)
        self._out2 = _linear(hidden, num_classes, hidden)
        self._drop = nn.Dropout(0.4, mode="downscale_in_infer")
        self._drop_auxiliary = nn.Dropout(0.7, mode="downscale_in_infer")

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        maps = self._maps(x)
        return {f"stage{i}": maps[name] for i, name in enumerate(("stem", "3b", "4e", "5b"), 1)}

    def forward(
        self, x: paddle.Tensor
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        maps = self._maps(x)
        logits = self._fc_out(self._drop(global_average(maps["5b"])))
        if not self.training:
            return logits
        first = F.relu(self._fc_o1(self._conv_o1(_pooled(maps["4a"])).flatten(1)))
        first = self._out1(self._drop_auxiliary(first))
        second = self._fc_o2(self._conv_o2(_pooled(maps["4d"])).flatten(1))  # as published: no ReLU
        return logits, first, self._out2(self._drop_auxiliary(second))

    def _maps(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Output of every block and of the stem, by name."""
        x = F.max_pool2d(self._conv(x), 3, 2)
        x = self._conv_2(self._conv_1(x))
        maps = {"stem": x}
        for name in _BLOCKS:
            if name.endswith("a"):
                x = F.max_pool2d(x, 3, 2)
            x = maps[name] = getattr(self, f"_ince{name}")(x)
        return maps


def _pooled(x: paddle.Tensor) -> paddle.Tensor:
    """A map of 3x3. At 224 px the first pooling gives it; PaddleClas refuses other sizes."""
    return F.adaptive_avg_pool2d(F.avg_pool2d(x, 5, 3), 3)


def _conv(channels: tuple[int, int], kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2D(*channels, kernel, stride=stride, padding=(kernel - 1) // 2, bias_attr=False)
    return nn.Sequential(("_conv", conv))


def _linear(features: int, out: int, fan_in: int) -> nn.Linear:
    bound = math.sqrt(3 / fan_in)
    return nn.Linear(features, out, weight_attr=ParamAttr(initializer=Uniform(-bound, bound)))
