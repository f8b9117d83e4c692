"""DarkNet-53, Redmon and Farhadi 2018, "YOLOv3: An Incremental Improvement": the variant."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class DarkNetSpec(ModelSpec):
    """Stages of residual blocks, each entered by a 3x3 convolution that doubles the channels."""

    network: ClassVar[str] = "ppcls_core.models.networks.darknet:DarkNet"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Residual blocks of each stage."""
    width: PositiveInt = 32
    """Channels of the first convolution."""


VARIANTS = {"DarkNet53": DarkNetSpec(depths=(1, 2, 8, 8, 4))}
