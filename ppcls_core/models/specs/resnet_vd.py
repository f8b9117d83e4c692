"""ResNet-D ("vd"), He et al. 2019, "Bag of Tricks for Image Classification": the variants."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from ppcls_core.models.specs import ModelSpec


class ResNetVdSpec(ModelSpec):
    """A ResNet with a stem of three 3x3 convolutions and average pooling in its shortcuts."""

    network: ClassVar[str] = "ppcls_core.models.resnet_vd:ResNetVd"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Residual blocks of each stage."""
    bottleneck: bool
    """1x1, 3x3, 1x1 blocks that put out four times their width; else two 3x3 convolutions."""
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """Channels of stage 1's 3x3 convolutions, doubled by each stage; the stem starts with half."""


VARIANTS = {
    "ResNet18_vd": ResNetVdSpec(depths=(2, 2, 2, 2), bottleneck=False),
    "ResNet34_vd": ResNetVdSpec(depths=(3, 4, 6, 3), bottleneck=False),
    "ResNet50_vd": ResNetVdSpec(depths=(3, 4, 6, 3), bottleneck=True),
    "ResNet101_vd": ResNetVdSpec(depths=(3, 4, 23, 3), bottleneck=True),
    "ResNet152_vd": ResNetVdSpec(depths=(3, 8, 36, 3), bottleneck=True),
    "ResNet200_vd": ResNetVdSpec(depths=(3, 12, 48, 3), bottleneck=True),
}
