"""Xception of DeepLab v3+: the network. Its variants are rows of specs/xception.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
from paddle import nn

from ppcls_core.models.networks import layers
from ppcls_core.models.networks.layers import (
    BatchNorm,
    Network,
    Residual,
    global_average,
    stage_outputs,
)
from ppcls_core.models.specs.xception import XceptionDeeplabSpec


class _ConvBN(layers.ConvBN):
    """The shared block, with the settings of DeepLab's batch norms."""

    names: ClassVar[tuple[str, str]] = ("_conv", "_bn")
    momentum: ClassVar[float] = 0.99
    epsilon: ClassVar[float] = 1e-3


class _SeparableConv(nn.Sequential):
    """Depthwise 3x3 convolution with batch norm, then a 1x1 one; ReLUs after both if dilated."""

    def __init__(self, before: int, after: int, stride: int = 1, dilation: int = 1) -> None:
        depthwise = nn.Conv2D(
            before,
            before,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=before,
            bias_attr=False,
        )
        activation = nn.ReLU if dilation > 1 else nn.Identity
        super().__init__(
            ("_conv1", depthwise),
            ("_bn1", BatchNorm(before, _ConvBN.momentum, _ConvBN.epsilon)),
            ("activation1", activation()),
            ("_conv2", nn.Conv2D(before, after, 1, bias_attr=False)),
            ("_bn2", BatchNorm(after, _ConvBN.momentum, _ConvBN.epsilon)),
            ("activation2", activation()),
        )


class StridedBlock(nn.Sequential):
    """branch(x) + shortcut(x): three separable convolutions after ReLUs, and a 1x1 convolution.

    Args:
        before: channels in.
        widths: channels of the separable convolutions.
        stride: of the last of them and of the shortcut.
    """

    def __init__(self, before: int, widths: tuple[int, int, int], stride: int) -> None:
        short = _ConvBN((before, widths[-1]), 1, stride, activation=None)
        super().__init__(*_branch(before, widths, stride), ("_short", short))
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *row, short = self.children()
        branch = x
        for layer in row:
            branch = layer(branch)
        return branch + short(x)


class XceptionDeeplab(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc",)

    def __init__(self, spec: XceptionDeeplabSpec, num_classes: int) -> None:
        super().__init__()
        self._conv1 = _ConvBN((3, spec.stem_width), 3, stride=2)
        self._conv2 = _ConvBN((spec.stem_width, 2 * spec.stem_width), 3)
        self.blocks = [self.add_sublayer(name, block) for name, block in _blocks(spec)]
        self._drop = nn.Dropout(0.5, mode="downscale_in_infer")
        self._fc = nn.Linear(spec.exit_widths[-1], num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self._conv2(self._conv1(x)), self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *_, last = self.features(x).values()
        return self._fc(global_average(self._drop(last)))  # each place dropped on its own


def _blocks(spec: XceptionDeeplabSpec) -> Iterator[tuple[str, nn.Layer]]:
    """All flows in one row, under the names of the published weights: xception_41 and so on."""
    prefix = f"xception_{8 + 3 * (len(spec.entry) + spec.middle)}"  # the number of convolutions
    before = 2 * spec.stem_width
    for index, (width, stride) in enumerate(spec.entry, 1):
        block = StridedBlock(before, (width, width, width), stride)
        yield f"{prefix}/entry_flow/block{index}", block
        before = width
    for index in range(1, spec.middle + 1):
        middle = Residual(*_branch(before, (before, before, before)))
        yield f"{prefix}/middle_flow/block{index}", middle
    first, second, last = spec.exit_widths
    yield "_exit_flow_1", StridedBlock(before, (before, first, first), stride=2)
    dilated = (
        ("_conv1", _SeparableConv(first, second, dilation=2)),
        ("_conv2", _SeparableConv(second, second, dilation=2)),
        ("_conv3", _SeparableConv(second, last, dilation=2)),
    )
    yield "_exit_flow_2", Residual(*dilated, is_residual=False)


def _branch(
    before: int, widths: tuple[int, int, int], stride: int = 1
) -> list[tuple[str, nn.Layer]]:
    row: list[tuple[str, nn.Layer]] = []
    for index, (width, step) in enumerate(zip(widths, (1, 1, stride), strict=True), 1):
        conv = _SeparableConv(before, width, step)
        row += [(f"relu{index}", nn.ReLU()), (f"_conv{index}", conv)]
        before = width
    return row
