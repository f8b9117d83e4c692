"""Residual networks with blocks of their own: the variants.

DarkNet-53: Redmon and Farhadi 2018, "YOLOv3: An Incremental Improvement". RegNetX: Radosavovic et
al. 2020, "Designing Network Design Spaces". ResNeSt: Zhang et al. 2020, "ResNeSt: Split-Attention
Networks". CSPResNet: Wang et al. 2019, "CSPNet: A New Backbone that can Enhance Learning
Capability of CNN".
"""

from typing import ClassVar

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppcls_core.models.specs import FourStages, ModelSpec

_50 = (3, 4, 6, 3)


class DarkNetSpec(ModelSpec):
    """Stages of residual blocks, each entered by a 3x3 convolution that doubles the channels."""

    network: ClassVar[str] = "ppcls_core.models.networks.residual:DarkNet"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Residual blocks of each stage."""
    width: PositiveInt = 32
    """Channels of the first convolution."""


class RegNetSpec(ModelSpec):
    """A convolution of stride 2, then four stages of residual blocks as wide inside as outside.

    Depths and widths are given as the paper's linear rule for the width of each block yields them.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.residual:RegNet"

    depths: FourStages
    """Residual blocks of each stage; the first halves the size."""
    group_width: PositiveInt
    """Channels of one group of every 3x3 convolution but the stem's."""
    widths: FourStages
    """Channels of each stage, multiples of `group_width`."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution."""

    @field_validator("widths")
    @classmethod
    def _widths_are_whole_groups(cls, value: FourStages, info: ValidationInfo) -> FourStages:
        group = info.data.get("group_width", 1)
        if any(width % group for width in value):
            raise ValueError(f"expected multiples of group_width, {group}")
        return value


class ResNeStSpec(ModelSpec):
    """A deep stem, four stages of residual blocks that each double the width, one linear layer."""

    network: ClassVar[str] = "ppcls_core.models.networks.residual:ResNeSt"

    depths: FourStages
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


class CSPResNetSpec(ModelSpec):
    """A stem, four stages that double the width and whose residual blocks one of two paths has."""

    network: ClassVar[str] = "ppcls_core.models.networks.residual:CSPResNet"

    depths: FourStages
    """Residual blocks of each stage."""
    width: PositiveInt = 64
    """Channels of the stem and of stage 1's 3x3 convolutions, doubled by each stage; stages put out
    twice as many."""


VARIANTS: dict[str, ModelSpec] = {
    "DarkNet53": DarkNetSpec(depths=(1, 2, 8, 8, 4)),
    "RegNetX_4GF": RegNetSpec(depths=(2, 5, 14, 2), widths=(80, 240, 560, 1360), group_width=40),
    "ResNeSt50_fast_1s1x64d": ResNeStSpec(depths=_50, radix=1, averages_first=True),
    "ResNeSt50": ResNeStSpec(depths=_50),
    "ResNeSt101": ResNeStSpec(depths=(3, 4, 23, 3), stem_width=64),
    "CSPResNet50_leaky": CSPResNetSpec(depths=(3, 3, 5, 2)),
}
