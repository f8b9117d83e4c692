"""MobileNetV1, V2 and V3: the variants.

Howard et al. 2017, "MobileNets"; Sandler et al. 2018, "MobileNetV2"; Howard et al. 2019,
"Searching for MobileNetV3".
"""

from typing import ClassVar, Literal, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from ppcls_core.models.specs import LearningRateFactors, ModelSpec, NotEmpty, Probability


class SeparableRow(NamedTuple):
    """One block: 3x3 depthwise, then 1x1 convolution. A recipe writes it as a list: `[64, 1]`."""

    out: PositiveInt
    """Channels at scale 1."""
    stride: Literal[1, 2]


class MobileNetV1Spec(ModelSpec):
    """A stack of depthwise separable convolutions, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet:MobileNetV1"

    scale: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded down, to 1 at least."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution, at scale 1."""
    blocks: NotEmpty[SeparableRow] = (
        SeparableRow(64, 1),
        SeparableRow(128, 2),
        SeparableRow(128, 1),
        SeparableRow(256, 2),
        SeparableRow(256, 1),
        SeparableRow(512, 2),
        *[SeparableRow(512, 1)] * 5,
        SeparableRow(1024, 2),
        SeparableRow(1024, 1),
    )


class BottleneckStage(NamedTuple):
    """Inverted residual blocks of one width. A recipe writes it as a list: `[6, 24, 2, 2]`."""

    expansion: PositiveInt
    """The depthwise convolutions have so many times their block's input channels."""
    out: PositiveInt
    """Channels at scale 1."""
    depth: PositiveInt
    stride: Literal[1, 2]
    """Stride of the first block; the others have 1."""


class MobileNetV2Spec(ModelSpec):
    """Stages of inverted residual blocks, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet:MobileNetV2"

    scale: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded down, to 1 at least."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution, at scale 1."""
    stages: NotEmpty[BottleneckStage] = (
        BottleneckStage(1, 16, 1, 1),
        BottleneckStage(6, 24, 2, 2),
        BottleneckStage(6, 32, 3, 2),
        BottleneckStage(6, 64, 4, 2),
        BottleneckStage(6, 96, 3, 1),
        BottleneckStage(6, 160, 3, 2),
        BottleneckStage(6, 320, 1, 1),
    )
    feature_width: PositiveInt = 1280
    """Channels that the classifier sees; a scale below 1 leaves them."""


class InvertedResidual(NamedTuple):
    """One block: 1x1 expansion, depthwise convolution, squeeze-and-excite, 1x1 projection.

    A recipe writes it as a list: `[5, 72, 40, true, relu, 2]`. Channels are those of scale 1.
    """

    kernel: Literal[3, 5]
    expanded: PositiveInt
    out: PositiveInt
    squeeze_excite: bool
    activation: Literal["relu", "hardswish"]  # after its convolutions
    stride: Literal[1, 2]


class MobileNetV3Spec(ModelSpec):
    """A stack of inverted residual blocks, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet:MobileNetV3"

    blocks: NotEmpty[InvertedResidual]
    last_width: PositiveInt
    """Channels of the last convolution before pooling, at scale 1."""
    scale: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded to a multiple of 8."""
    stem_width: PositiveInt = 16
    """Channels of the first convolution, at scale 1."""
    feature_width: PositiveInt = 1280
    """Channels that the classifier sees, at any scale."""
    dropout: Probability = 0.2
    """Probability of dropping one of the classifier's inputs in training."""
    lr_mult_list: LearningRateFactors = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors of the convolutions' learning rate: of the stem and the first fifth of the blocks,
    then of each further fifth, what is over and the convolution before pooling in the last."""


_LARGE = (
    InvertedResidual(3, 16, 16, False, "relu", 1),
    InvertedResidual(3, 64, 24, False, "relu", 2),
    InvertedResidual(3, 72, 24, False, "relu", 1),
    InvertedResidual(5, 72, 40, True, "relu", 2),
    InvertedResidual(5, 120, 40, True, "relu", 1),
    InvertedResidual(5, 120, 40, True, "relu", 1),
    InvertedResidual(3, 240, 80, False, "hardswish", 2),
    InvertedResidual(3, 200, 80, False, "hardswish", 1),
    InvertedResidual(3, 184, 80, False, "hardswish", 1),
    InvertedResidual(3, 184, 80, False, "hardswish", 1),
    InvertedResidual(3, 480, 112, True, "hardswish", 1),
    InvertedResidual(3, 672, 112, True, "hardswish", 1),
    InvertedResidual(5, 672, 160, True, "hardswish", 2),
    InvertedResidual(5, 960, 160, True, "hardswish", 1),
    InvertedResidual(5, 960, 160, True, "hardswish", 1),
)
_SMALL = (
    InvertedResidual(3, 16, 16, True, "relu", 2),
    InvertedResidual(3, 72, 24, False, "relu", 2),
    InvertedResidual(3, 88, 24, False, "relu", 1),
    InvertedResidual(5, 96, 40, True, "hardswish", 2),
    InvertedResidual(5, 240, 40, True, "hardswish", 1),
    InvertedResidual(5, 240, 40, True, "hardswish", 1),
    InvertedResidual(5, 120, 48, True, "hardswish", 1),
    InvertedResidual(5, 144, 48, True, "hardswish", 1),
    InvertedResidual(5, 288, 96, True, "hardswish", 2),
    InvertedResidual(5, 576, 96, True, "hardswish", 1),
    InvertedResidual(5, 576, 96, True, "hardswish", 1),
)

VARIANTS: dict[str, ModelSpec] = {
    "MobileNetV1_x0_25": MobileNetV1Spec(scale=0.25),
    "MobileNetV1_x0_5": MobileNetV1Spec(scale=0.5),
    "MobileNetV1_x0_75": MobileNetV1Spec(scale=0.75),
    "MobileNetV1": MobileNetV1Spec(),
    "MobileNetV2_x0_25": MobileNetV2Spec(scale=0.25),
    "MobileNetV2_x0_5": MobileNetV2Spec(scale=0.5),
    "MobileNetV2_x0_75": MobileNetV2Spec(scale=0.75),
    "MobileNetV2": MobileNetV2Spec(),
    "MobileNetV2_x1_5": MobileNetV2Spec(scale=1.5),
    "MobileNetV2_x2_0": MobileNetV2Spec(scale=2.0),
    **{
        f"MobileNetV3_{size}_x{scale}".replace(".", "_"): MobileNetV3Spec(
            blocks=blocks, last_width=last_width, scale=scale
        )
        for size, blocks, last_width in (("large", _LARGE, 960), ("small", _SMALL, 576))
        for scale in (0.35, 0.5, 0.75, 1.0, 1.25)
    },
}
