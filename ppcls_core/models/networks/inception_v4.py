"""Inception-v4: the network. Its variant is the row of specs/inception_v4.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.inception import Block, BranchRow
from ppcls_core.models.networks.layers import (
    ConvBN,
    Network,
    PrivateConvBN,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.inception_v4 import InceptionV4Spec


class _UnpaddedConvBN(PrivateConvBN):
    """It loses the border: kernel - 1 places of each dimension."""

    is_padded: ClassVar[bool] = False


_A = (
    BranchRow("_conv1", "pooled", 96),
    BranchRow("_conv2", "input", 96),
    BranchRow("_conv3_1", "input", 64),
    BranchRow("_conv3_2", "_conv3_1", 96, 3),
    BranchRow("_conv4_1", "input", 64),
    BranchRow("_conv4_2", "_conv4_1", 96, 3),
    BranchRow("_conv4_3", "_conv4_2", 96, 3),
)
_REDUCTION_A = (
    BranchRow("_conv2", "input", 384, 3, 2),
    BranchRow("_conv3_1", "input", 192),
    BranchRow("_conv3_2", "_conv3_1", 224, 3),
    BranchRow("_conv3_3", "_conv3_2", 256, 3, 2),
)
_B = (
    BranchRow("_conv1", "pooled", 128),
    BranchRow("_conv2", "input", 384),
    BranchRow("_conv3_1", "input", 192),
    BranchRow("_conv3_2", "_conv3_1", 224, (1, 7)),
    BranchRow("_conv3_3", "_conv3_2", 256, (7, 1)),
    BranchRow("_conv4_1", "input", 192),
    BranchRow("_conv4_2", "_conv4_1", 192, (1, 7)),
    BranchRow("_conv4_3", "_conv4_2", 224, (7, 1)),
    BranchRow("_conv4_4", "_conv4_3", 224, (1, 7)),
    BranchRow("_conv4_5", "_conv4_4", 256, (7, 1)),
)
_REDUCTION_B = (
    BranchRow("_conv2_1", "input", 192),
    BranchRow("_conv2_2", "_conv2_1", 192, 3, 2),
    BranchRow("_conv3_1", "input", 256),
    BranchRow("_conv3_2", "_conv3_1", 256, (1, 7)),
    BranchRow("_conv3_3", "_conv3_2", 320, (7, 1)),
    BranchRow("_conv3_4", "_conv3_3", 320, 3, 2),
)
_C = (
    BranchRow("_conv1", "pooled", 256),
    BranchRow("_conv2", "input", 256),
    BranchRow("_conv3_0", "input", 384),
    BranchRow("_conv3_1", "_conv3_0", 256, (1, 3)),
    BranchRow("_conv3_2", "_conv3_0", 256, (3, 1)),
    BranchRow("_conv4_0", "input", 384),
    BranchRow("_conv4_00", "_conv4_0", 448, (1, 3)),
    BranchRow("_conv4_000", "_conv4_00", 512, (3, 1)),
    BranchRow("_conv4_1", "_conv4_000", 256, (1, 3)),
    BranchRow("_conv4_2", "_conv4_000", 256, (3, 1)),
)


class _Stem(nn.Layer):
    """Images to a map of 12 times `width` channels and an eighth of the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._conv_1 = _UnpaddedConvBN((3, width), 3, stride=2)
        self._conv_2 = _UnpaddedConvBN((width, width), 3)
        self._conv_3 = PrivateConvBN((width, 2 * width), 3)
        self._conv2 = _UnpaddedConvBN((2 * width, 3 * width), 3, stride=2)
        self._conv1_1 = PrivateConvBN((5 * width, 2 * width), 1)
        self._conv1_2 = _UnpaddedConvBN((2 * width, 3 * width), 3)
        self._conv2_1 = PrivateConvBN((5 * width, 2 * width), 1)
        self._conv2_2 = PrivateConvBN((2 * width, 2 * width), (7, 1))
        self._conv2_3 = PrivateConvBN((2 * width, 2 * width), (1, 7))
        self._conv2_4 = _UnpaddedConvBN((2 * width, 3 * width), 3)
        self._conv3 = _UnpaddedConvBN((6 * width, 6 * width), 3, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv_3(self._conv_2(self._conv_1(x)))
        x = paddle.concat([F.max_pool2d(x, 3, 2), self._conv2(x)], axis=1)
        short = self._conv1_2(self._conv1_1(x))
        long = self._conv2_4(self._conv2_3(self._conv2_2(self._conv2_1(x))))
        x = paddle.concat([short, long], axis=1)
        return paddle.concat([self._conv3(x), F.max_pool2d(x, 3, 2)], axis=1)


class BlockV4(Block):
    """With the names of this network's weights."""

    padded: ClassVar[type[ConvBN]] = PrivateConvBN
    unpadded: ClassVar[type[ConvBN]] = _UnpaddedConvBN


class InceptionV4(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 75, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: InceptionV4Spec, num_classes: int) -> None:
        super().__init__()
        self._inception_stem = _Stem(spec.width)
        before = 12 * spec.width
        a, b, c = spec.depths
        rows = [(f"_inceptionA_{i + 1}", _A) for i in range(a)] + [("_reductionA", _REDUCTION_A)]
        rows += [(f"_inceptionB_{i + 1}", _B) for i in range(b)] + [("_reductionB", _REDUCTION_B)]
        rows += [(f"_inceptionC_{i + 1}", _C) for i in range(c)]
        self.blocks: list[nn.Layer] = []
        for name, table in rows:
            block = BlockV4(before, table, spec.width)
            self.blocks.append(self.add_sublayer(name, block))
            before = block.out
        self._drop = nn.Dropout(0.2, mode="downscale_in_infer")
        self.out = linear(before, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self._inception_stem(x), self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(self._drop(global_average(self.features(x)["stage3"])))
