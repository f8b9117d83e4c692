"""SqueezeNet, Iandola et al. 2016, "AlexNet-level accuracy with 50x fewer parameters": variants."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from ppcls_core.models.specs import ModelSpec

Stage = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class SqueezeNetSpec(ModelSpec):
    """Fire modules, which squeeze the channels and expand them by 1x1 and 3x3 convolutions."""

    network: ClassVar[str] = "ppcls_core.models.networks.squeezenet:SqueezeNet"

    stem_width: PositiveInt
    """Channels of the first convolution."""
    stem_kernel: Literal[3, 7]
    """Size of the first convolution; that of 7 is not padded."""
    squeezed: tuple[Stage, Stage, Stage]
    """Squeezed channels of each stage's modules, which put out eight times as many."""

    @field_validator("squeezed")
    @classmethod
    def _not_too_many(cls, squeezed: tuple[Stage, Stage, Stage]) -> tuple[Stage, Stage, Stage]:
        if sum(map(len, squeezed)) > 8:  # the published name of the classifier is _conv9
            raise ValueError("at most eight modules are possible")
        return squeezed


VARIANTS = {
    "SqueezeNet1_0": SqueezeNetSpec(
        stem_width=96, stem_kernel=7, squeezed=((16, 16, 32), (32, 48, 48, 64), (64,))
    ),
    "SqueezeNet1_1": SqueezeNetSpec(
        stem_width=64, stem_kernel=3, squeezed=((16, 16), (32, 32), (48, 48, 64, 64))
    ),
}
