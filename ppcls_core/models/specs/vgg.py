"""VGG, Simonyan and Zisserman 2014, "Very Deep Convolutional Networks": the variants."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class VGGSpec(ModelSpec):
    """Five stages of 3x3 convolutions without batch norm, then three linear layers."""

    network: ClassVar[str] = "ppcls_core.models.networks.vgg:VGG"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Convolutions of each stage."""
    width: PositiveInt = 64
    """Channels of stage 1, doubled by each stage but the last."""
    hidden: PositiveInt = 4096
    """Channels of the linear layers before the classifier."""


VARIANTS = {
    "VGG11": VGGSpec(depths=(1, 1, 2, 2, 2)),
    "VGG13": VGGSpec(depths=(2, 2, 2, 2, 2)),
    "VGG16": VGGSpec(depths=(2, 2, 3, 3, 3)),
    "VGG19": VGGSpec(depths=(2, 2, 4, 4, 4)),
}
