"""Inception-v4, Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning": the variant.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class InceptionV4Spec(ModelSpec):
    """A stem, then stages of equal blocks A, B and C with a reduction between them."""

    network: ClassVar[str] = "ppcls_core.models.networks.inception_v4:InceptionV4"
    min_size: ClassVar[int] = 75

    depths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Blocks A, B and C."""
    width: PositiveInt = 32
    """Channels of the first convolution; those of all others are multiples of it."""


VARIANTS = {"InceptionV4": InceptionV4Spec(depths=(4, 7, 3))}
