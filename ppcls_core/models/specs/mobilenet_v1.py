"""MobileNetV1, Howard et al. 2017, "MobileNets": the variants."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from ppcls_core.models.specs import ModelSpec


class SeparableRow(NamedTuple):
    """One block: 3x3 depthwise, then 1x1 convolution. A recipe writes it as a list: `[64, 1]`."""

    out: PositiveInt
    """Channels at scale 1."""
    stride: Literal[1, 2]


class MobileNetV1Spec(ModelSpec):
    """A stack of depthwise separable convolutions, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.mobilenet_v1:MobileNetV1"

    scale: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded down, to 1 at least."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution, at scale 1."""
    blocks: Annotated[tuple[SeparableRow, ...], Field(min_length=1)] = (
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


VARIANTS = {
    "MobileNetV1_x0_25": MobileNetV1Spec(scale=0.25),
    "MobileNetV1_x0_5": MobileNetV1Spec(scale=0.5),
    "MobileNetV1_x0_75": MobileNetV1Spec(scale=0.75),
    "MobileNetV1": MobileNetV1Spec(),
}
