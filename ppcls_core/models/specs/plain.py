"""Networks without batch norm: the variants.

AlexNet in one tower: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks". VGG: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks". SqueezeNet:
Iandola et al. 2016, "AlexNet-level accuracy with 50x fewer parameters". GoogLeNet: Szegedy et al.
2014, "Going Deeper with Convolutions".
"""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt, field_validator

from ppcls_core.models.specs import ModelSpec, NotEmpty

Stage = NotEmpty[PositiveInt]
PerStage = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class VGGSpec(ModelSpec):
    """Five stages of 3x3 convolutions without batch norm, then three linear layers."""

    network: ClassVar[str] = "ppcls_core.models.networks.plain:VGG"

    depths: PerStage
    """Convolutions of each stage."""
    width: PositiveInt = 64
    """Channels of stage 1, doubled by each stage but the last."""
    hidden: PositiveInt = 4096
    """Channels of the linear layers before the classifier."""


class AlexNetSpec(ModelSpec):
    """Five convolutions without batch norm, then three linear layers."""

    network: ClassVar[str] = "ppcls_core.models.networks.plain:AlexNet"
    min_size: ClassVar[int] = 47

    widths: PerStage
    """Channels of the convolutions."""
    hidden: PositiveInt = 4096
    """Channels of the linear layers before the classifier."""


class SqueezeNetSpec(ModelSpec):
    """Fire modules, which squeeze the channels and expand them by 1x1 and 3x3 convolutions."""

    network: ClassVar[str] = "ppcls_core.models.networks.plain:SqueezeNet"

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


class Inception(NamedTuple):
    """Channels of one block's convolutions. A recipe writes it as a list of six."""

    one: PositiveInt
    three_reduced: PositiveInt
    """Channels of the 1x1 convolution before the 3x3 one."""
    three: PositiveInt
    five_reduced: PositiveInt
    five: PositiveInt
    pooled: PositiveInt
    """Channels of the 1x1 convolution after the pooling."""


class GoogLeNetSpec(ModelSpec):
    """Inception blocks without batch norm, and two auxiliary classifiers for training."""

    network: ClassVar[str] = "ppcls_core.models.networks.plain:GoogLeNet"
    min_size: ClassVar[int] = 45

    blocks: Annotated[tuple[Inception, ...], Field(min_length=9, max_length=9)]
    """Inception 3a, 3b, 4a to 4e, 5a and 5b."""
    stem_widths: tuple[PositiveInt, PositiveInt] = (64, 192)
    """Channels of the first two convolutions, and of the third."""
    auxiliary_widths: tuple[PositiveInt, PositiveInt] = (128, 1024)
    """Channels of an auxiliary classifier's convolution and of its linear layer."""


VARIANTS: dict[str, ModelSpec] = {
    "VGG11": VGGSpec(depths=(1, 1, 2, 2, 2)),
    "VGG13": VGGSpec(depths=(2, 2, 2, 2, 2)),
    "VGG16": VGGSpec(depths=(2, 2, 3, 3, 3)),
    "VGG19": VGGSpec(depths=(2, 2, 4, 4, 4)),
    "AlexNet": AlexNetSpec(widths=(64, 192, 384, 256, 256)),
    "SqueezeNet1_0": SqueezeNetSpec(
        stem_width=96, stem_kernel=7, squeezed=((16, 16, 32), (32, 48, 48, 64), (64,))
    ),
    "SqueezeNet1_1": SqueezeNetSpec(
        stem_width=64, stem_kernel=3, squeezed=((16, 16), (32, 32), (48, 48, 64, 64))
    ),
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
    ),
}
