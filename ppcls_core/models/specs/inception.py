"""Inception-v3 and v4: the variants. PaddleClas's Inception-v3 has no auxiliary classifier.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", and 2016,
"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning".
"""

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec, NotEmpty

Widths = NotEmpty[PositiveInt]


class InceptionV4Spec(ModelSpec):
    """A stem, then stages of equal blocks A, B and C with a reduction between them."""

    network: ClassVar[str] = "ppcls_core.models.networks.inception:InceptionV4"
    min_size: ClassVar[int] = 75

    depths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Blocks A, B and C."""
    width: PositiveInt = 32
    """Channels of the first convolution; those of all others are multiples of it."""


class InceptionV3Spec(ModelSpec):
    """A stem, then stages of blocks A, B and C with a reduction between them.

    Widths are channels where the first convolution of the network has 32.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.inception:InceptionV3"
    min_size: ClassVar[int] = 75

    pooled: Widths
    """Width of the pooled branch of each block A."""
    inner: Widths
    """Width inside the branches of 7x7 of each block B."""
    depth: PositiveInt
    """Blocks C."""
    width: PositiveInt = 32
    """Channels of the first convolution; those of all others are in proportion."""


VARIANTS: dict[str, ModelSpec] = {
    "InceptionV4": InceptionV4Spec(depths=(4, 7, 3)),
    "InceptionV3": InceptionV3Spec(pooled=(32, 64, 64), inner=(128, 160, 160, 192), depth=2),
}
