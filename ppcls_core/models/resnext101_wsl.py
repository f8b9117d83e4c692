"""ResNeXt-101 WSL: the network. Its variants are the rows of specs/resnext101_wsl.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models import layers
from ppcls_core.models.layers import global_average, linear_classifier
from ppcls_core.models.specs.resnext101_wsl import ResNeXtWslSpec


class ConvBN(layers.ConvBN):
    """The shared block under the names of the published weights."""

    names: ClassVar[tuple[str, str]] = ("_conv", "_bn")


class Projection(nn.Layer):
    """A block's shortcut: 1x1 convolution where the shape changes, else the identity."""

    def __init__(self, channels: tuple[int, int], stride: int) -> None:
        super().__init__()
        self._conv = None
        if stride != 1 or channels[0] != channels[1]:
            self._conv = ConvBN(channels, 1, stride, activation=None)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x if self._conv is None else self._conv(x)


class Bottleneck(nn.Layer):
    """relu(1x1, grouped 3x3, 1x1 + shortcut); `channels` are in, of the 3x3 convolution, out."""

    def __init__(self, channels: tuple[int, int, int], stride: int, groups: int) -> None:
        super().__init__()
        before, width, after = channels
        self._conv0 = ConvBN((before, width), 1)
        self._conv1 = ConvBN((width, width), 3, stride, groups)
        self._conv2 = ConvBN((width, after), 1, activation=None)
        self._short = Projection((before, after), stride)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self._conv2(self._conv1(self._conv0(x))) + self._short(x))


class ResNeXtWsl(nn.Layer):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifier = "_out"

    def __init__(self, spec: ResNeXtWslSpec, num_classes: int) -> None:
        super().__init__()
        self._conv_stem = ConvBN((3, spec.width), 7, stride=2)
        self._blocks = list(_blocks(spec))
        for name, block in self._blocks:
            self.add_sublayer(name, block)
        self._out = linear_classifier(spec.width * 32, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(self._conv_stem(x), 3, 2, padding=1)
        for _, block in self._blocks:
            x = block(x)
        return self._out(global_average(x))


def _blocks(spec: ResNeXtWslSpec) -> Iterator[tuple[str, Bottleneck]]:
    """(name, block) of the four stages in order, named as in the published weights."""
    before = spec.width
    for stage, depth in enumerate(spec.depths):
        width = spec.cardinality * spec.group_width << stage
        after = 4 * spec.width << stage
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            block = Bottleneck((before, width, after), stride, spec.cardinality)
            yield f"_conv{stage + 1}_{index}", block
            before = after
