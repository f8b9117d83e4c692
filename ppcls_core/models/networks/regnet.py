"""RegNetX: the network. Its variant is the row of specs/regnet.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Network,
    PrivateConvBN,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.regnet import RegNetSpec


class _ConvBN(PrivateConvBN):
    """The shared block with a bias, which the batch norm takes away again: the weights have it."""

    has_bias: ClassVar[bool] = True


class _Block(nn.Layer):
    """Convolutions of 1x1, grouped 3x3 and 1x1, and the shortcut, added.

    Args:
        channels: in and out; inside they are as many as out.
        group_width: channels of one group.
        is_first: in its stage; this block halves the size, and its shortcut is a convolution.
    """

    def __init__(self, channels: tuple[int, int], group_width: int, is_first: bool) -> None:
        super().__init__()
        width = channels[1]
        self.stride = 2 if is_first else 1
        self.conv0 = _ConvBN(channels, 1)
        self.conv1 = _ConvBN((width, width), 3, self.stride, width // group_width)
        self.conv2 = _ConvBN((width, width), 1, activation=None)
        self.short = _ConvBN(channels, 1, self.stride, activation=None) if is_first else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        branch = self.conv2(self.conv1(self.conv0(x)))
        return F.relu(branch + (x if self.short is None else self.short(x)))


class RegNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: RegNetSpec, num_classes: int) -> None:
        super().__init__()
        before = spec.stem_width
        self.conv = _ConvBN((3, before), 3, stride=2)
        self.blocks: list[_Block] = []
        for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), 1):
            for index in range(1, depth + 1):
                block = _Block((before, width), spec.group_width, is_first=index == 1)
                self.add_sublayer(f"s{stage}_b{index}", block)
                self.blocks.append(block)
                before = width
        self.out = linear(before, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self.conv(x), self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(global_average(self.features(x)["stage4"]))
