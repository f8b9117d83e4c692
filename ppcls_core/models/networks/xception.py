"""Xception: the network. Its variants are the rows of specs/xception.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Activation,
    Network,
    PrivateConvBN,
    Residual,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.xception import XceptionSpec


class _SeparableConv(nn.Sequential):
    """1x1 convolution, then a depthwise 3x3 one, then `activation`."""

    stride: ClassVar[int] = 1

    def __init__(self, before: int, after: int, activation: Activation | None = None) -> None:
        super().__init__(
            ("_pointwise_conv", PrivateConvBN((before, after), 1, activation=None)),
            (
                "_depthwise_conv",
                PrivateConvBN((after, after), 3, groups=after, activation=activation),
            ),
        )


class PooledBlock(nn.Layer):
    """shortcut(x) + branch(x): two separable convolutions after ReLUs, and a max pooling.

    Args:
        channels: in, of the first separable convolution, out.
        names: of the separable convolutions.
        stride: of the shortcut's 1x1 convolution and of the pooling.
        relu_first: else the first separable convolution sees x itself.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        names: tuple[str, str],
        stride: int,
        relu_first: bool = True,
    ) -> None:
        super().__init__()
        before, middle, after = channels
        self._short = nn.Conv2D(before, after, 1, stride=stride, bias_attr=False)
        self.add_sublayer(names[0], _SeparableConv(before, middle))
        self.add_sublayer(names[1], _SeparableConv(middle, after))
        self.stride = stride
        self.relu_first = relu_first

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        short, first, second = self.children()
        branch = second(F.relu(first(F.relu(x) if self.relu_first else x)))
        return short(x) + F.max_pool2d(branch, 3, self.stride, padding=1)


class Xception(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_exit_flow._out",)

    def __init__(self, spec: XceptionSpec, num_classes: int) -> None:
        super().__init__()
        stem, width = spec.stem_width, spec.entry[-1].out
        first, second, last = spec.exit_widths
        self._entry_flow = nn.Sequential(
            ("_conv1", PrivateConvBN((3, stem), 3, stride=2)),
            ("_conv2", PrivateConvBN((stem, 2 * stem), 3)),
            *_entry_blocks(spec),
        )
        self._middle_flow = nn.Sequential(
            *[(f"_conv_{i}", _middle_block(width)) for i in range(spec.middle)]
        )
        self._exit_flow = nn.Sequential(
            ("_conv_0", PooledBlock((width, width, first), ("_conv_1", "_conv_2"), stride=2)),
            ("_conv_1", _SeparableConv(first, second, F.relu)),
            ("_conv_2", _SeparableConv(second, last, F.relu)),
            ("_out", linear(last, num_classes)),
        )

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        conv1, conv2, *entry = self._entry_flow.children()
        *leave, _ = self._exit_flow.children()
        return stage_outputs(conv2(conv1(x)), [*entry, *self._middle_flow.children(), *leave])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *_, last = self.features(x).values()
        return self._exit_flow[-1](global_average(last))


def _entry_blocks(spec: XceptionSpec) -> list[tuple[str, PooledBlock]]:
    blocks: list[tuple[str, PooledBlock]] = []
    before = 2 * spec.stem_width
    for index, row in enumerate(spec.entry):
        channels = before, row.out, row.out
        block = PooledBlock(channels, ("_conv1", "_conv2"), row.stride, relu_first=index > 0)
        blocks.append((f"_conv_{index}", block))
        before = row.out
    return blocks


def _middle_block(width: int) -> Residual:
    row: list[tuple[str, nn.Layer]] = []
    for index in range(3):
        row += [(f"relu_{index}", nn.ReLU()), (f"_conv_{index}", _SeparableConv(width, width))]
    return Residual(*row)
