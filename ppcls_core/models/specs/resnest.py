"""ResNeSt, Zhang et al. 2020, "ResNeSt: Split-Attention Networks": the variants."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppcls_core.models.specs import ModelSpec


class ResNeStSpec(ModelSpec):
    """A deep stem, four stages of residual blocks that each double the width, one linear layer."""

    network: ClassVar[str] = "ppcls_core.models.networks.resnest:ResNeSt"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Residual blocks of each stage."""
    radix: PositiveInt = 2
    """Splits of every block's 3x3 convolution, among which attention chooses."""
    stem_width: PositiveInt = 32
    """Channels of the first two convolutions; the third has twice as many."""
    width: PositiveInt = 64
    """Channels of stage 1's 3x3 convolutions, a multiple of `radix`, doubled by each stage; blocks
    put out four times as many."""
    averages_first: bool = False
    """A block that halves the size averages before its 3x3 convolution, else after it."""

    @field_validator("width")
    @classmethod
    def _splits_are_equal(cls, value: int, info: ValidationInfo) -> int:
        radix = info.data.get("radix", 1)
        if value % radix:
            raise ValueError(f"expected a multiple of radix, {radix}")
        return value


_50 = (3, 4, 6, 3)

VARIANTS = {
    "ResNeSt50_fast_1s1x64d": ResNeStSpec(depths=_50, radix=1, averages_first=True),
    "ResNeSt50": ResNeStSpec(depths=_50),
    "ResNeSt101": ResNeStSpec(depths=(3, 4, 23, 3), stem_width=64),
}
