"""Inception-v3, Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision":
the variant. PaddleClas's has no auxiliary classifier.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from ppcls_core.models.specs import ModelSpec

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class InceptionV3Spec(ModelSpec):
    """A stem, then stages of blocks A, B and C with a reduction between them.

    Widths are channels where the first convolution of the network has 32.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.inception_v3:InceptionV3"
    min_size: ClassVar[int] = 75

    pooled: Widths
    """Width of the pooled branch of each block A."""
    inner: Widths
    """Width inside the branches of 7x7 of each block B."""
    depth: PositiveInt
    """Blocks C."""
    width: PositiveInt = 32
    """Channels of the first convolution; those of all others are in proportion."""


VARIANTS = {
    "InceptionV3": InceptionV3Spec(pooled=(32, 64, 64), inner=(128, 160, 160, 192), depth=2)
}
