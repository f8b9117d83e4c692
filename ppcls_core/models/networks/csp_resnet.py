"""CSPResNet: the network. Its variant is the row of specs/csp_resnet.py.

PaddleClas had it in the static graph alone: the names of the state dict are our own, in the order
in which its program makes the variables.
"""

from __future__ import annotations

from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Activation,
    ConvBN,
    Network,
    Step,
    global_average,
    in_row,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.csp_resnet import CSPResNetSpec

# Paddle's default of 2020, and what PaddleClas gave the sums.
_LEAKY = partial(F.leaky_relu, negative_slope=0.02)
_SUM_LEAKY = partial(F.leaky_relu, negative_slope=0.1)


def _conv(
    channels: tuple[int, int], kernel: int, stride: int = 1, activation: Activation | None = _LEAKY
) -> ConvBN:
    return ConvBN(channels, kernel, stride, activation=activation)


class _Block(nn.Layer):
    """Convolutions of 1x1, 3x3 and 1x1, and the shortcut, added: `before` to twice `width`."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv0 = _conv((before, width), 1)
        self.conv1 = _conv((width, width), 3)
        self.conv2 = _conv((width, 2 * width), 1, activation=None)
        self.shortcut: list[Step] = []
        if before != 2 * width:
            self.short = _conv((before, 2 * width), 1, activation=None)
            self.shortcut.append(self.short)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        branch = self.conv2(self.conv1(self.conv0(x)))
        return _SUM_LEAKY(branch + in_row(self.shortcut, x))


class _Stage(nn.Layer):
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
            self.downsample = _conv((width, width), 3, stride=2)
            self.entry.append(self.downsample)
        self.first = _conv((width, inner), 1)
        self.blocks = nn.Sequential(
            *(_Block(wide if index else inner, width) for index in range(depth))
        )
        self.left = _conv((width, wide), 1)
        self.right = _conv((wide, wide), 1)
        self.merge = _conv((2 * wide, wide), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = in_row(self.entry, x)
        right = self.right(self.blocks(self.first(x)))
        return self.merge(paddle.concat([self.left(x), right], axis=1))


class CSPResNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: CSPResNetSpec, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv((3, spec.width), 7, stride=2)
        self.stages = nn.LayerList(
            _Stage(spec.width << stage, depth, is_first=stage == 0)
            for stage, depth in enumerate(spec.depths)
        )
        self.fc = linear(spec.width << len(spec.depths), num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(F.max_pool2d(self.stem(x), 2, 2), self.stages)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(global_average(self.features(x)["stage4"]))
