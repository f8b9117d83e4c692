"""Inception-v3: the network. Its variant is the row of specs/inception_v3.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.inception import Block, BranchRow
from ppcls_core.models.networks.layers import (
    ConvBN,
    Network,
    cut_width,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.inception_v3 import InceptionV3Spec


class _UnpaddedConvBN(ConvBN):
    """It loses the border: kernel - 1 places of each dimension."""

    is_padded: ClassVar[bool] = False


class BlockV3(Block):
    """With the names of this network's weights."""

    padded: ClassVar[type[ConvBN]] = ConvBN
    unpadded: ClassVar[type[ConvBN]] = _UnpaddedConvBN
    counts_padding: ClassVar[bool] = True
    pooled_last: ClassVar[bool] = True


def _a(pooled: int) -> tuple[BranchRow, ...]:
    return (
        BranchRow("branch1x1", "input", 64),
        BranchRow("branch5x5_1", "input", 48),
        BranchRow("branch5x5_2", "branch5x5_1", 64, 5),
        BranchRow("branch3x3dbl_1", "input", 64),
        BranchRow("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
        BranchRow("branch3x3dbl_3", "branch3x3dbl_2", 96, 3),
        BranchRow("branch_pool_conv", "pooled", pooled),
    )


_REDUCTION_A = (
    BranchRow("branch3x3", "input", 384, 3, 2),
    BranchRow("branch3x3dbl_1", "input", 64),
    BranchRow("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
    BranchRow("branch3x3dbl_3", "branch3x3dbl_2", 96, 3, 2),
)


def _b(inner: int) -> tuple[BranchRow, ...]:
    return (
        BranchRow("branch1x1", "input", 192),
        BranchRow("branch7x7_1", "input", inner),
        BranchRow("branch7x7_2", "branch7x7_1", inner, (1, 7)),
        BranchRow("branch7x7_3", "branch7x7_2", 192, (7, 1)),
        BranchRow("branch7x7dbl_1", "input", inner),
        BranchRow("branch7x7dbl_2", "branch7x7dbl_1", inner, (7, 1)),
        BranchRow("branch7x7dbl_3", "branch7x7dbl_2", inner, (1, 7)),
        BranchRow("branch7x7dbl_4", "branch7x7dbl_3", inner, (7, 1)),
        BranchRow("branch7x7dbl_5", "branch7x7dbl_4", 192, (1, 7)),
        BranchRow("branch_pool_conv", "pooled", 192),
    )


_REDUCTION_B = (
    BranchRow("branch3x3_1", "input", 192),
    BranchRow("branch3x3_2", "branch3x3_1", 320, 3, 2),
    BranchRow("branch7x7x3_1", "input", 192),
    BranchRow("branch7x7x3_2", "branch7x7x3_1", 192, (1, 7)),
    BranchRow("branch7x7x3_3", "branch7x7x3_2", 192, (7, 1)),
    BranchRow("branch7x7x3_4", "branch7x7x3_3", 192, 3, 2),
)
_C = (
    BranchRow("branch1x1", "input", 320),
    BranchRow("branch3x3_1", "input", 384),
    BranchRow("branch3x3_2a", "branch3x3_1", 384, (1, 3)),
    BranchRow("branch3x3_2b", "branch3x3_1", 384, (3, 1)),
    BranchRow("branch3x3dbl_1", "input", 448),
    BranchRow("branch3x3dbl_2", "branch3x3dbl_1", 384, 3),
    BranchRow("branch3x3dbl_3a", "branch3x3dbl_2", 384, (1, 3)),
    BranchRow("branch3x3dbl_3b", "branch3x3dbl_2", 384, (3, 1)),
    BranchRow("branch_pool_conv", "pooled", 192),
)


class _Stem(nn.Layer):
    """Images to a map of 6 times `width` channels and an eighth of the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        middle = cut_width(80, width / 32)
        self.conv_1a_3x3 = _UnpaddedConvBN((3, width), 3, stride=2)
        self.conv_2a_3x3 = _UnpaddedConvBN((width, width), 3)
        self.conv_2b_3x3 = ConvBN((width, 2 * width), 3)
        self.conv_3b_1x1 = ConvBN((2 * width, middle), 1)
        self.conv_4a_3x3 = _UnpaddedConvBN((middle, 6 * width), 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv_2b_3x3(self.conv_2a_3x3(self.conv_1a_3x3(x)))
        x = self.conv_4a_3x3(self.conv_3b_1x1(F.max_pool2d(x, 3, 2)))
        return F.max_pool2d(x, 3, 2)


class InceptionV3(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 75, odd ones too."""

    def __init__(self, spec: InceptionV3Spec, num_classes: int) -> None:
        super().__init__()
        self.inception_stem = _Stem(spec.width)
        before = 6 * spec.width
        tables = [_a(pooled) for pooled in spec.pooled] + [_REDUCTION_A]
        tables += [_b(inner) for inner in spec.inner] + [_REDUCTION_B] + [_C] * spec.depth
        self.inception_block_list = nn.LayerList()
        for table in tables:
            block = BlockV3(before, table, spec.width)
            self.inception_block_list.append(block)
            before = block.out
        self.dropout = nn.Dropout(0.2, mode="downscale_in_infer")
        self.fc = linear(before, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self.inception_stem(x), self.inception_block_list)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(self.dropout(global_average(self.features(x)["stage3"])))
