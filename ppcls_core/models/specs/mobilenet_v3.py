"""MobileNetV3, Howard et al. 2019, "Searching for MobileNetV3": the variants."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from ppcls_core.models.specs import ModelSpec, Probability


class InvertedResidual(NamedTuple):
    """One block: 1x1 expansion, depthwise convolution, squeeze-and-excite, 1x1 projection.

    A recipe writes it as a list: `[5, 72, 40, true, relu, 2]`. Channels are those of scale 1.
    """

    kernel: Literal[3, 5]
    expanded: PositiveInt
    out: PositiveInt
    squeeze_excite: bool
    activation: Literal["relu", "hardswish"]
    stride: Literal[1, 2]


class MobileNetV3Spec(ModelSpec):
    """A stack of inverted residual blocks, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet_v3:MobileNetV3"

    blocks: tuple[InvertedResidual, ...]
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
    lr_mult_list: tuple[
        NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat
    ] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors of the convolutions' learning rate: of the stem and the first fifth of the blocks,
    then of each further fifth, what is over and the convolution before pooling in the last."""

    @field_validator("blocks")
    @classmethod
    def _any_blocks(cls, blocks: tuple[InvertedResidual, ...]) -> tuple[InvertedResidual, ...]:
        if not blocks:
            raise ValueError("at least one block is needed")
        return blocks


def _spec(rows: list[InvertedResidual], last_width: int, scale: float) -> MobileNetV3Spec:
    return MobileNetV3Spec(blocks=tuple(rows), last_width=last_width, scale=scale)


_LARGE = [
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
]
_SMALL = [
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
]

VARIANTS = {
    "MobileNetV3_large_x0_35": _spec(_LARGE, 960, 0.35),
    "MobileNetV3_large_x0_5": _spec(_LARGE, 960, 0.5),
    "MobileNetV3_large_x0_75": _spec(_LARGE, 960, 0.75),
    "MobileNetV3_large_x1_0": _spec(_LARGE, 960, 1.0),
    "MobileNetV3_large_x1_25": _spec(_LARGE, 960, 1.25),
    "MobileNetV3_small_x0_35": _spec(_SMALL, 576, 0.35),
    "MobileNetV3_small_x0_5": _spec(_SMALL, 576, 0.5),
    "MobileNetV3_small_x0_75": _spec(_SMALL, 576, 0.75),
    "MobileNetV3_small_x1_0": _spec(_SMALL, 576, 1.0),
    "MobileNetV3_small_x1_25": _spec(_SMALL, 576, 1.25),
}
