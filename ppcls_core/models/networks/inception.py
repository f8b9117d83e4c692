"""Inception-v3 and Inception-v4, of blocks of convolutions that a table describes.

Their variants are the rows of specs/inception.py.
"""

from typing import ClassVar, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    ConvBN,
    Network,
    PrivateConvBN,
    cut_width,
    global_average,
    linear,
)
from ppcls_core.models.specs.inception import InceptionV3Spec, InceptionV4Spec


class _Row(NamedTuple):
    """One convolution of a block. It reads `source`: "input", "pooled" or another's name."""

    name: str
    source: str
    out: int
    """Channels where the first convolution of the network has 32."""
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    """Stride 2 goes without padding."""


class _Block(nn.Layer):
    """Convolutions in the rows of a table; outputs that none of them reads are concatenated.

    Of stride 1 with an average pooling, of stride 2 with a max pooling. A family says in a subclass
    which convolutions it has, padded and not, whether averages at the border count the padding's
    zeros, and whether what is pooled comes first or last in the concatenation.
    """

    padded: ClassVar[type[ConvBN]]
    unpadded: ClassVar[type[ConvBN]]
    counts_padding: ClassVar[bool] = False
    pooled_last: ClassVar[bool] = False

    def __init__(self, before: int, table: tuple[_Row, ...], width: int) -> None:
        super().__init__()
        self.table = table
        self.stride = max(row.stride for row in table)
        widths = {"pooled": before, "input": before}
        for row in table:
            conv = self.unpadded if row.stride == 2 else self.padded
            widths[row.name] = cut_width(row.out, width / 32)
            channels = widths[row.source], widths[row.name]
            self.add_sublayer(row.name, conv(channels, row.kernel, row.stride))
        if self.pooled_last:
            widths["pooled"] = widths.pop("pooled")
        self.ends = [name for name in widths if name not in {row.source for row in table}]
        self.out = sum(widths[name] for name in self.ends)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        maps = {"input": x, "pooled": self._pool(x)}
        for row in self.table:
            maps[row.name] = getattr(self, row.name)(maps[row.source])
        return paddle.concat([maps[name] for name in self.ends], axis=1)

    def _pool(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.stride == 2:
            return F.max_pool2d(x, 3, 2)
        return F.avg_pool2d(x, 3, 1, padding=1, exclusive=not self.counts_padding)


# They lose the border: kernel - 1 places of each dimension.
_UnpaddedV3 = ConvBN.with_settings(is_padded=False)
_UnpaddedV4 = PrivateConvBN.with_settings(is_padded=False)


class _BlockV3(_Block):
    """With the names of this network's weights."""

    padded: ClassVar[type[ConvBN]] = ConvBN
    unpadded: ClassVar[type[ConvBN]] = _UnpaddedV3
    counts_padding: ClassVar[bool] = True
    pooled_last: ClassVar[bool] = True


def _v3_a(pooled: int) -> tuple[_Row, ...]:
    return (
        _Row("branch1x1", "input", 64),
        _Row("branch5x5_1", "input", 48),
        _Row("branch5x5_2", "branch5x5_1", 64, 5),
        _Row("branch3x3dbl_1", "input", 64),
        _Row("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
        _Row("branch3x3dbl_3", "branch3x3dbl_2", 96, 3),
        _Row("branch_pool_conv", "pooled", pooled),
    )


_V3_REDUCTION_A = (
    _Row("branch3x3", "input", 384, 3, 2),
    _Row("branch3x3dbl_1", "input", 64),
    _Row("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
    _Row("branch3x3dbl_3", "branch3x3dbl_2", 96, 3, 2),
)


def _v3_b(inner: int) -> tuple[_Row, ...]:
    return (
        _Row("branch1x1", "input", 192),
        _Row("branch7x7_1", "input", inner),
        _Row("branch7x7_2", "branch7x7_1", inner, (1, 7)),
        _Row("branch7x7_3", "branch7x7_2", 192, (7, 1)),
        _Row("branch7x7dbl_1", "input", inner),
        _Row("branch7x7dbl_2", "branch7x7dbl_1", inner, (7, 1)),
        _Row("branch7x7dbl_3", "branch7x7dbl_2", inner, (1, 7)),
        _Row("branch7x7dbl_4", "branch7x7dbl_3", inner, (7, 1)),
        _Row("branch7x7dbl_5", "branch7x7dbl_4", 192, (1, 7)),
        _Row("branch_pool_conv", "pooled", 192),
    )


_V3_REDUCTION_B = (
    _Row("branch3x3_1", "input", 192),
    _Row("branch3x3_2", "branch3x3_1", 320, 3, 2),
    _Row("branch7x7x3_1", "input", 192),
    _Row("branch7x7x3_2", "branch7x7x3_1", 192, (1, 7)),
    _Row("branch7x7x3_3", "branch7x7x3_2", 192, (7, 1)),
    _Row("branch7x7x3_4", "branch7x7x3_3", 192, 3, 2),
)
_V3_C = (
    _Row("branch1x1", "input", 320),
    _Row("branch3x3_1", "input", 384),
    _Row("branch3x3_2a", "branch3x3_1", 384, (1, 3)),
    _Row("branch3x3_2b", "branch3x3_1", 384, (3, 1)),
    _Row("branch3x3dbl_1", "input", 448),
    _Row("branch3x3dbl_2", "branch3x3dbl_1", 384, 3),
    _Row("branch3x3dbl_3a", "branch3x3dbl_2", 384, (1, 3)),
    _Row("branch3x3dbl_3b", "branch3x3dbl_2", 384, (3, 1)),
    _Row("branch_pool_conv", "pooled", 192),
)


def _stem_v3(width: int) -> nn.Sequential:
    """Images to a map of 6 times `width` channels and an eighth of the resolution."""
    middle = cut_width(80, width / 32)
    return nn.Sequential(
        ("conv_1a_3x3", _UnpaddedV3((3, width), 3, stride=2)),
        ("conv_2a_3x3", _UnpaddedV3((width, width), 3)),
        ("conv_2b_3x3", ConvBN((width, 2 * width), 3)),
        ("pool1", nn.MaxPool2D(3, 2)),
        ("conv_3b_1x1", ConvBN((2 * width, middle), 1)),
        ("conv_4a_3x3", _UnpaddedV3((middle, 6 * width), 3)),
        ("pool2", nn.MaxPool2D(3, 2)),
    )


class InceptionV3(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 75, odd ones too."""

    def __init__(self, spec: InceptionV3Spec, num_classes: int) -> None:
        super().__init__()
        self.inception_stem = _stem_v3(spec.width)
        before = 6 * spec.width
        tables = [_v3_a(pooled) for pooled in spec.pooled] + [_V3_REDUCTION_A]
        tables += [_v3_b(inner) for inner in spec.inner] + [_V3_REDUCTION_B] + [_V3_C] * spec.depth
        self.inception_block_list = nn.LayerList()
        for table in tables:
            block = _BlockV3(before, table, spec.width)
            self.inception_block_list.append(block)
            before = block.out
        self.entry, self.trunk = [self.inception_stem], list(self.inception_block_list)
        self.dropout = nn.Dropout(0.2, mode="downscale_in_infer")
        self.neck = [global_average, self.dropout]
        self.fc = linear(before, num_classes)


_V4_A = (
    _Row("_conv1", "pooled", 96),
    _Row("_conv2", "input", 96),
    _Row("_conv3_1", "input", 64),
    _Row("_conv3_2", "_conv3_1", 96, 3),
    _Row("_conv4_1", "input", 64),
    _Row("_conv4_2", "_conv4_1", 96, 3),
    _Row("_conv4_3", "_conv4_2", 96, 3),
)
_V4_REDUCTION_A = (
    _Row("_conv2", "input", 384, 3, 2),
    _Row("_conv3_1", "input", 192),
    _Row("_conv3_2", "_conv3_1", 224, 3),
    _Row("_conv3_3", "_conv3_2", 256, 3, 2),
)
_V4_B = (
    _Row("_conv1", "pooled", 128),
    _Row("_conv2", "input", 384),
    _Row("_conv3_1", "input", 192),
    _Row("_conv3_2", "_conv3_1", 224, (1, 7)),
    _Row("_conv3_3", "_conv3_2", 256, (7, 1)),
    _Row("_conv4_1", "input", 192),
    _Row("_conv4_2", "_conv4_1", 192, (1, 7)),
    _Row("_conv4_3", "_conv4_2", 224, (7, 1)),
    _Row("_conv4_4", "_conv4_3", 224, (1, 7)),
    _Row("_conv4_5", "_conv4_4", 256, (7, 1)),
)
_V4_REDUCTION_B = (
    _Row("_conv2_1", "input", 192),
    _Row("_conv2_2", "_conv2_1", 192, 3, 2),
    _Row("_conv3_1", "input", 256),
    _Row("_conv3_2", "_conv3_1", 256, (1, 7)),
    _Row("_conv3_3", "_conv3_2", 320, (7, 1)),
    _Row("_conv3_4", "_conv3_3", 320, 3, 2),
)
_V4_C = (
    _Row("_conv1", "pooled", 256),
    _Row("_conv2", "input", 256),
    _Row("_conv3_0", "input", 384),
    _Row("_conv3_1", "_conv3_0", 256, (1, 3)),
    _Row("_conv3_2", "_conv3_0", 256, (3, 1)),
    _Row("_conv4_0", "input", 384),
    _Row("_conv4_00", "_conv4_0", 448, (1, 3)),
    _Row("_conv4_000", "_conv4_00", 512, (3, 1)),
    _Row("_conv4_1", "_conv4_000", 256, (1, 3)),
    _Row("_conv4_2", "_conv4_000", 256, (3, 1)),
)


class _StemV4(nn.Layer):
    """Images to a map of 12 times `width` channels and an eighth of the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._conv_1 = _UnpaddedV4((3, width), 3, stride=2)
        self._conv_2 = _UnpaddedV4((width, width), 3)
        self._conv_3 = PrivateConvBN((width, 2 * width), 3)
        self._conv2 = _UnpaddedV4((2 * width, 3 * width), 3, stride=2)
        self._conv1_1 = PrivateConvBN((5 * width, 2 * width), 1)
        self._conv1_2 = _UnpaddedV4((2 * width, 3 * width), 3)
        self._conv2_1 = PrivateConvBN((5 * width, 2 * width), 1)
        self._conv2_2 = PrivateConvBN((2 * width, 2 * width), (7, 1))
        self._conv2_3 = PrivateConvBN((2 * width, 2 * width), (1, 7))
        self._conv2_4 = _UnpaddedV4((2 * width, 3 * width), 3)
        self._conv3 = _UnpaddedV4((6 * width, 6 * width), 3, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv_3(self._conv_2(self._conv_1(x)))
        x = paddle.concat([F.max_pool2d(x, 3, 2), self._conv2(x)], axis=1)
        short = self._conv1_2(self._conv1_1(x))
        long = self._conv2_4(self._conv2_3(self._conv2_2(self._conv2_1(x))))
        x = paddle.concat([short, long], axis=1)
        return paddle.concat([self._conv3(x), F.max_pool2d(x, 3, 2)], axis=1)


class _BlockV4(_Block):
    """With the names of this network's weights."""

    padded: ClassVar[type[ConvBN]] = PrivateConvBN
    unpadded: ClassVar[type[ConvBN]] = _UnpaddedV4


class InceptionV4(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 75, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: InceptionV4Spec, num_classes: int) -> None:
        super().__init__()
        self._inception_stem = _StemV4(spec.width)
        before = 12 * spec.width
        a, b, c = spec.depths
        rows = [(f"_inceptionA_{i + 1}", _V4_A) for i in range(a)]
        rows += [("_reductionA", _V4_REDUCTION_A)]
        rows += [(f"_inceptionB_{i + 1}", _V4_B) for i in range(b)]
        rows += [("_reductionB", _V4_REDUCTION_B)]
        rows += [(f"_inceptionC_{i + 1}", _V4_C) for i in range(c)]
        trunk: list[nn.Layer] = []
        for name, table in rows:
            block = _BlockV4(before, table, spec.width)
            trunk.append(self.add_sublayer(name, block))
            before = block.out
        self.entry, self.trunk = [self._inception_stem], trunk
        self._drop = nn.Dropout(0.2, mode="downscale_in_infer")
        self.neck = [global_average, self._drop]
        self.out = linear(before, num_classes)
