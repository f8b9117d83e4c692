"""GoogLeNet, Szegedy et al. 2014, "Going Deeper with Convolutions": the variant."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field, PositiveInt

from ppcls_core.models.specs import ModelSpec


class Inception(NamedTuple):
    """Channels of one block's convolutions. A recipe writes it as a list of six."""

    one: PositiveInt
    three_reduced: PositiveInt
    """Of the 1x1 convolution before the 3x3 one."""
    three: PositiveInt
    five_reduced: PositiveInt
    five: PositiveInt
    pooled: PositiveInt
    """Of the 1x1 convolution after the pooling."""


class GoogLeNetSpec(ModelSpec):
    """Inception blocks without batch norm, and two auxiliary classifiers for training."""

    network: ClassVar[str] = "ppcls_core.models.networks.googlenet:GoogLeNet"
    min_size: ClassVar[int] = 45

    blocks: Annotated[tuple[Inception, ...], Field(min_length=9, max_length=9)]
    """Inception 3a, 3b, 4a to 4e, 5a and 5b."""
    stem_widths: tuple[PositiveInt, PositiveInt] = (64, 192)
    """Channels of the first two convolutions, and of the third."""
    auxiliary_widths: tuple[PositiveInt, PositiveInt] = (128, 1024)
    """Channels of an auxiliary classifier's convolution and of its linear layer."""


VARIANTS = {
    "GoogLeNet": GoogLeNetSpec(
        blocks=(
            Inception(64, 96, 128, 16, 32, 32),
            Inception(128, 128, 192, 32, 96, 64),
            Inception(192, 96, 208, 16, 48, 64),
            Inception(160, 112, 224, 24, 64, 64),
            Inception(128, 128, 256, 24, 64, 64),
            Inception(112, 144, 288, 32, 64, 64),
            Inception(256, 160, 320, 32, 128, 128),
            Inception(256, 160, 320, 32, 128, 128),
            Inception(384, 192, 384, 48, 128, 128),
        )
    )
}
