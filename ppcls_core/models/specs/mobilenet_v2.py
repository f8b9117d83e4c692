"""MobileNetV2, Sandler et al. 2018, "MobileNetV2": the variants."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from ppcls_core.models.specs import ModelSpec


class BottleneckStage(NamedTuple):
    """Inverted residual blocks of one width. A recipe writes it as a list: `[6, 24, 2, 2]`."""

    expansion: PositiveInt
    """The depthwise convolutions have so many times their block's input channels."""
    out: PositiveInt
    """Channels at scale 1."""
    depth: PositiveInt
    stride: Literal[1, 2]
    """Of the first block."""


class MobileNetV2Spec(ModelSpec):
    """Stages of inverted residual blocks, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet_v2:MobileNetV2"

    scale: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded down, to 1 at least."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution, at scale 1."""
    stages: Annotated[tuple[BottleneckStage, ...], Field(min_length=1)] = (
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


VARIANTS = {
    "MobileNetV2_x0_25": MobileNetV2Spec(scale=0.25),
    "MobileNetV2_x0_5": MobileNetV2Spec(scale=0.5),
    "MobileNetV2_x0_75": MobileNetV2Spec(scale=0.75),
    "MobileNetV2": MobileNetV2Spec(),
    "MobileNetV2_x1_5": MobileNetV2Spec(scale=1.5),
    "MobileNetV2_x2_0": MobileNetV2Spec(scale=2.0),
}
