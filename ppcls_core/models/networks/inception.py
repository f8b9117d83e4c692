"""Blocks of convolutions that a table describes, for Inception-v3 and v4."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import ConvBN, cut_width


class BranchRow(NamedTuple):
    """One convolution of a block. It reads `source`: "input", "pooled" or another's name."""

    name: str
    source: str
    out: int
    """Channels where the first convolution of the network has 32."""
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    """Stride 2 goes without padding."""


class Block(nn.Layer):
    """Convolutions in the rows of a table; outputs that none of them reads are concatenated.

    Of stride 1 with an average pooling, of stride 2 with a max pooling. A family says in a subclass
    which convolutions it has, padded and not, whether averages at the border count the padding's
    zeros, and whether what is pooled comes first or last in the concatenation.
    """

    padded: ClassVar[type[ConvBN]]
    unpadded: ClassVar[type[ConvBN]]
    counts_padding: ClassVar[bool] = False
    pooled_last: ClassVar[bool] = False

    def __init__(self, before: int, table: tuple[BranchRow, ...], width: int) -> None:
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
