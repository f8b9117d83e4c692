"""Residual networks with blocks of their own: DarkNet-53, CSPResNet, RegNetX and ResNeSt.

Their variants are the rows of specs/residual.py. PaddleClas had CSPResNet in the static graph
alone: the names of its state dict are our own, in the order in which its program makes the
variables.
"""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppcls_core.models.networks.layers import (
    BatchNorm,
    ConvBN,
    Network,
    PrivateConvBN,
    Residual,
    ResidualBlock,
    ShortConvBN,
    Step,
    in_row,
    linear,
    pool,
)
from ppcls_core.models.specs.residual import CSPResNetSpec, DarkNetSpec, RegNetSpec, ResNeStSpec


class DarkNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too.

    Published with ReLU, where the paper has leaky ReLU.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("_out",)

    def __init__(self, spec: DarkNetSpec, num_classes: int) -> None:
        super().__init__()
        self._conv1 = ShortConvBN((3, spec.width), 3)
        self.entry = [self._conv1]
        self.trunk = [self.add_sublayer(name, block) for name, block in _darknet_blocks(spec)]
        self._out = linear(spec.width << len(spec.depths), num_classes)


def _darknet_blocks(spec: DarkNetSpec) -> Iterator[tuple[str, nn.Layer]]:
    """The stages in one row, under the names of the published weights."""
    for stage, depth in enumerate(spec.depths):
        width = spec.width << stage
        name = f"_downsample_{stage - 1}" if stage else "_conv2"
        yield name, ShortConvBN((width, 2 * width), 3, stride=2)
        for index in range(1, depth + 1):
            squeeze = ("_conv1", ShortConvBN((2 * width, width), 1))
            expand = ("_conv2", ShortConvBN((width, 2 * width), 3))
            yield f"_basic_block_{stage}{index}", Residual(squeeze, expand)


def _leaky(
    channels: tuple[int, int], kernel: int, stride: int = 1, activates: bool = True
) -> ConvBN:
    """The shared block with the slope that was Paddle's default in 2020."""
    activation = partial(F.leaky_relu, negative_slope=0.02) if activates else None
    return ConvBN(channels, kernel, stride, activation=activation)


def _csp_block(before: int, width: int) -> ResidualBlock:
    """Convolutions of 1x1, 3x3 and 1x1, and the shortcut, added: `before` to twice `width`."""
    after = 2 * width
    branch = [
        ("conv0", _leaky((before, width), 1)),
        ("conv1", _leaky((width, width), 3)),
        ("conv2", _leaky((width, after), 1, activates=False)),
    ]
    short = [("short", _leaky((before, after), 1, activates=False))] if before != after else []
    # PaddleClas gave the sums a slope of their own.
    return ResidualBlock(branch, short, activation=partial(F.leaky_relu, negative_slope=0.1))


class _CSPStage(nn.Layer):
    """Two paths, one with the residual blocks, of the same input, merged: to twice `width`.

    The first stage sees the stem's map as it is, the others halve the size.
    """

    def __init__(self, width: int, depth: int, is_first: bool) -> None:
        super().__init__()
        wide = 2 * width
        self.stride = 1 if is_first else 2
        inner = width if is_first else wide
        self.entry: list[Step] = []
        if not is_first:
            self.downsample = _leaky((width, width), 3, stride=2)
            self.entry.append(self.downsample)
        self.first = _leaky((width, inner), 1)
        self.blocks = nn.Sequential(
            *(_csp_block(wide if index else inner, width) for index in range(depth))
        )
        self.left = _leaky((width, wide), 1)
        self.right = _leaky((wide, wide), 1)
        self.merge = _leaky((2 * wide, wide), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = in_row(self.entry, x)
        right = self.right(self.blocks(self.first(x)))
        return self.merge(paddle.concat([self.left(x), right], axis=1))


class CSPResNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: CSPResNetSpec, num_classes: int) -> None:
        super().__init__()
        self.stem = _leaky((3, spec.width), 7, stride=2)
        self.stages = nn.LayerList(
            _CSPStage(spec.width << stage, depth, is_first=stage == 0)
            for stage, depth in enumerate(spec.depths)
        )
        self.entry = [self.stem, nn.MaxPool2D(2, 2)]
        self.trunk = list(self.stages)
        self.fc = linear(spec.width << len(spec.depths), num_classes)


# With a bias, which the batch norm takes away again: the published weights have it.
_BiasedConvBN = PrivateConvBN.with_settings(has_bias=True)


def _regnet_block(channels: tuple[int, int], group_width: int, is_first: bool) -> ResidualBlock:
    """Convolutions of 1x1, grouped 3x3 and 1x1, and the shortcut, added.

    Args:
        channels: in and out; inside they are as many as out.
        group_width: channels of one group.
        is_first: in its stage; this block halves the size, and its shortcut is a convolution.
    """
    width, stride = channels[1], 2 if is_first else 1
    branch = [
        ("conv0", _BiasedConvBN(channels, 1)),
        ("conv1", _BiasedConvBN((width, width), 3, stride, width // group_width)),
        ("conv2", _BiasedConvBN((width, width), 1, activation=None)),
    ]
    short = [("short", _BiasedConvBN(channels, 1, stride, activation=None))] if is_first else []
    return ResidualBlock(branch, short, stride)


class RegNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: RegNetSpec, num_classes: int) -> None:
        super().__init__()
        before = spec.stem_width
        self.conv = _BiasedConvBN((3, before), 3, stride=2)
        self.entry = [self.conv]
        trunk: list[nn.Layer] = []
        for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), 1):
            for index in range(1, depth + 1):
                block = _regnet_block((before, width), spec.group_width, is_first=index == 1)
                trunk.append(self.add_sublayer(f"s{stage}_b{index}", block))
                before = width
        self.trunk = trunk
        self.out = linear(before, num_classes)


_UndecayedConvBN = PrivateConvBN.with_settings(decay_norm=False)


class SplitAttention(nn.Layer):
    """A 3x3 convolution to `radix` splits, added with weights that come from means of their sum.

    The weights of a channel's splits add up to 1; a single split has a gate between 0 and 1.
    Input and output have `channels`.
    """

    def __init__(self, channels: int, radix: int) -> None:
        super().__init__()
        squeezed = max(32, channels * radix // 4)
        self.conv1 = _UndecayedConvBN((channels, channels * radix), 3, groups=radix)
        self.conv2 = _UndecayedConvBN((channels, squeezed), 1)
        self.conv3 = nn.Conv2D(squeezed, channels * radix, 1, bias_attr=False)
        self.shape = [-1, radix, channels]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, channels, H, W] to the same shape."""
        x = self.conv1(x)
        splits = x.split(self.shape[1], axis=1)
        mean = F.adaptive_avg_pool2d(paddle.add_n(splits), 1)
        scores = self.conv3(self.conv2(mean)).reshape(self.shape)  # [N, radix, channels]
        weights = F.softmax(scores, axis=1) if len(splits) > 1 else F.sigmoid(scores)
        gates = weights.reshape([-1, x.shape[1], 1, 1]).split(len(splits), axis=1)
        return paddle.add_n(list(map(paddle.multiply, splits, gates)))


def _resnest_block(spec: ResNeStSpec, before: int, stage: int, is_first: bool) -> ResidualBlock:
    """Convolutions of 1x1, split attention and 1x1, and the shortcut, added.

    Args:
        spec: of the network.
        before: channels of the input.
        stage: from 0.
        is_first: in its stage; this block halves the size, but in stage 0, and its shortcut is a
            1x1 convolution.
    """
    width, stride = spec.width << stage, 2 if stage > 0 and is_first else 1
    branch: list[tuple[str, nn.Layer]] = [
        ("conv1", _UndecayedConvBN((before, width), 1)),
        ("conv2", SplitAttention(width, spec.radix)),
        ("conv3", _UndecayedConvBN((width, 4 * width), 1, activation=None)),
    ]
    shortcut: list[tuple[str, nn.Layer]] = []
    if stride == 2:
        place = 1 if spec.averages_first else 2
        branch.insert(place, ("average", nn.AvgPool2D(3, 2, padding=1)))
        shortcut.append(("short_average", nn.AvgPool2D(2, 2, ceil_mode=True)))
    if is_first:
        attr = ParamAttr(regularizer=L2Decay(0.0))  # as in _UndecayedConvBN
        shortcut.append(("conv4", nn.Conv2D(before, 4 * width, 1, bias_attr=False)))
        shortcut.append(("_batch_norm", BatchNorm(4 * width, weight_attr=attr, bias_attr=attr)))
    return ResidualBlock(branch, shortcut, stride)


class ResNeSt(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: ResNeStSpec, num_classes: int) -> None:
        super().__init__()
        stem, before = spec.stem_width, 2 * spec.stem_width
        self.stem = nn.Sequential(
            ("conv1", _UndecayedConvBN((3, stem), 3, stride=2)),
            ("conv2", _UndecayedConvBN((stem, stem), 3)),
            ("conv3", _UndecayedConvBN((stem, before), 3)),
        )
        self.entry = [self.stem, pool]
        trunk: list[nn.Layer] = []
        for stage, depth in enumerate(spec.depths):
            name = f"layer{stage + 1}"
            layer = self.add_sublayer(name, nn.Sequential())
            for index in range(depth):
                block = _resnest_block(spec, before, stage, is_first=index == 0)
                trunk.append(layer.add_sublayer(f"{name}_bottleneck_{index}", block))
                before = spec.width << stage + 2
        self.trunk = trunk
        self.out = linear(before, num_classes)
