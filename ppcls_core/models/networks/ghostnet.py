"""GhostNet: the network. Its variants are the rows of specs/ghostnet.py."""

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Activation,
    Network,
    PrivateConvBN,
    ResidualBlock,
    SqueezeExcite,
    linear,
    scaled_width,
)
from ppcls_core.models.specs.ghostnet import GhostBottleneck, GhostNetSpec

_ConvBN = PrivateConvBN.with_settings(decay_norm=False, counts_group=True)


class _GhostModule(nn.Layer):
    """Half of the channels from a 1x1 convolution, the rest from these by a depthwise one.

    `channels` are in and out.
    """

    def __init__(self, channels: tuple[int, int], activation: Activation | None) -> None:
        super().__init__()
        half = channels[1] // 2
        self.primary_conv = _ConvBN((channels[0], half), 1, activation=activation)
        self.cheap_operation = _ConvBN((half, half), 3, groups=half, activation=activation)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.primary_conv(x)
        return paddle.concat([x, self.cheap_operation(x)], axis=1)


class GhostNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("fc_1",)

    def __init__(self, spec: GhostNetSpec, num_classes: int) -> None:
        super().__init__()
        stem = scaled_width(spec.stem_width, spec.scale, 4)
        before = scaled_width(spec.blocks[-1].out, spec.scale, 4)
        last = scaled_width(spec.blocks[-1].expanded, spec.scale, 4)
        self.conv1 = _ConvBN((3, stem), 3, stride=2)
        self.blocks = [
            self.add_sublayer(f"_ghostbottleneck_{index}", block)
            for index, block in enumerate(_blocks(spec, stem))
        ]
        self.conv_last = _ConvBN((before, last), 1)
        self.entry, self.trunk = [self.conv1], [*self.blocks, self.conv_last]
        self.fc_0 = _ConvBN((last, spec.feature_width), 1)
        self.dropout = nn.Dropout(spec.dropout)
        self.neck = [nn.AdaptiveAvgPool2D(1), self.fc_0, nn.Flatten(), self.dropout]
        self.fc_1 = linear(spec.feature_width, num_classes)


def _blocks(spec: GhostNetSpec, before: int) -> Iterator[ResidualBlock]:
    for row in spec.blocks:
        width, after = (scaled_width(c, spec.scale, 4) for c in (row.expanded, row.out))
        branch = list(_branch((before, width, after), row))
        yield ResidualBlock(branch, _shortcut(before, after, row), row.stride, activation=None)
        before = after


def _shortcut(before: int, after: int, row: GhostBottleneck) -> Iterator[tuple[str, nn.Layer]]:
    if row.stride == 2 or before != after:
        yield "shortcut_depthwise", _depthwise(before, row)
        yield "shortcut_conv", _ConvBN((before, after), 1, activation=None)


def _branch(channels: tuple[int, int, int], row: GhostBottleneck) -> Iterator[tuple[str, nn.Layer]]:
    """Ghost modules that widen and narrow `channels` in, expanded, out, and what is between."""
    before, width, after = channels
    yield "ghost_module_1", _GhostModule((before, width), F.relu)
    if row.stride == 2:
        yield "depthwise_conv", _depthwise(width, row)
    if row.squeeze_excite:
        yield "se_block", SqueezeExcite(width, width // 4, _clip)
    yield "ghost_module_2", _GhostModule((width, after), None)


def _depthwise(channels: int, row: GhostBottleneck) -> PrivateConvBN:
    return _ConvBN((channels, channels), row.kernel, row.stride, channels, activation=None)


def _clip(x: paddle.Tensor) -> paddle.Tensor:
    return x.clip(0.0, 1.0)
