"""RegNetX, Radosavovic et al. 2020, "Designing Network Design Spaces": the variant."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppcls_core.models.specs import ModelSpec

PerStage = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class RegNetSpec(ModelSpec):
    """A convolution of stride 2, then four stages of residual blocks as wide inside as outside.

    Depths and widths are given as the paper's linear rule for the width of each block yields them.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.regnet:RegNet"

    depths: PerStage
    """Residual blocks of each stage; the first halves the size."""
    group_width: PositiveInt
    """Channels of one group of every 3x3 convolution but the stem's."""
    widths: PerStage
    """Channels of each stage, multiples of `group_width`."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution."""

    @field_validator("widths")
    @classmethod
    def _widths_are_whole_groups(cls, value: PerStage, info: ValidationInfo) -> PerStage:
        group = info.data.get("group_width", 1)
        if any(width % group for width in value):
            raise ValueError(f"expected multiples of group_width, {group}")
        return value


VARIANTS = {
    "RegNetX_4GF": RegNetSpec(depths=(2, 5, 14, 2), widths=(80, 240, 560, 1360), group_width=40)
}
