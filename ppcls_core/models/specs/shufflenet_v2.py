"""ShuffleNetV2, Ma et al. 2018, "ShuffleNet V2": the variants."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from ppcls_core.models.specs import ModelSpec

EvenInt = Annotated[int, Field(ge=2, multiple_of=2)]


class ShuffleNetV2Spec(ModelSpec):
    """Stages of blocks that convolve half of their channels and shuffle them with the rest."""

    network: ClassVar[str] = "ppcls_core.models.networks.shufflenet_v2:ShuffleNetV2"

    widths: tuple[EvenInt, EvenInt, EvenInt]
    """Channels of each stage."""
    feature_width: PositiveInt = 1024
    """Channels that the classifier sees."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 8, 4)
    """Blocks of each stage."""
    stem_width: PositiveInt = 24
    """Channels of the first convolution."""
    activation: Literal["relu", "swish"] = "relu"  # after its convolutions


VARIANTS = {
    "ShuffleNetV2_x0_25": ShuffleNetV2Spec(widths=(24, 48, 96), feature_width=512),
    "ShuffleNetV2_x0_33": ShuffleNetV2Spec(widths=(32, 64, 128), feature_width=512),
    "ShuffleNetV2_x0_5": ShuffleNetV2Spec(widths=(48, 96, 192)),
    "ShuffleNetV2": ShuffleNetV2Spec(widths=(116, 232, 464)),
    "ShuffleNetV2_x1_5": ShuffleNetV2Spec(widths=(176, 352, 704)),
    "ShuffleNetV2_x2_0": ShuffleNetV2Spec(widths=(244, 488, 976), feature_width=2048),
    "ShuffleNetV2_swish": ShuffleNetV2Spec(widths=(116, 232, 464), activation="swish"),
}
