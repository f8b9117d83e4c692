"""ResNeXt-101 32xNd WSL, Mahajan et al. 2018, "Exploring the Limits of Weakly Supervised
Pretraining": the variants. The 32x16d is the published teacher of the ResNet students.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class ResNeXtWslSpec(ModelSpec):
    """A ResNeXt whose blocks put out the same channels however wide their groups are."""

    network: ClassVar[str] = "ppcls_core.models.resnext101_wsl:ResNeXtWsl"

    group_width: PositiveInt
    """Channels of one group of stage 1's 3x3 convolutions, doubled by each stage."""
    cardinality: PositiveInt = 32
    """Groups of every 3x3 convolution."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 23, 3)
    """Residual blocks of each stage."""
    width: PositiveInt = 64
    """Channels of the stem; stage 1's blocks put out four times as many, doubled by each stage."""


VARIANTS = {
    "ResNeXt101_32x8d_wsl": ResNeXtWslSpec(group_width=8),
    "ResNeXt101_32x16d_wsl": ResNeXtWslSpec(group_width=16),
    "ResNeXt101_32x32d_wsl": ResNeXtWslSpec(group_width=32),
    "ResNeXt101_32x48d_wsl": ResNeXtWslSpec(group_width=48),
}
