"""GhostNet, Han et al. 2019, "GhostNet: More Features from Cheap Operations": the variants."""

from typing import ClassVar, Literal, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from ppcls_core.models.specs import ModelSpec, NotEmpty, Probability


class GhostBottleneck(NamedTuple):
    """One block: a wide ghost module, a strided convolution, a gate, a narrow ghost module.

    A recipe writes it as a list: `[5, 72, 40, true, 2]`. Channels are those of scale 1.
    """

    kernel: Literal[3, 5]
    expanded: PositiveInt
    out: PositiveInt
    squeeze_excite: bool
    stride: Literal[1, 2]


class GhostNetSpec(ModelSpec):
    """A stack of ghost bottlenecks, every width multiplied by `scale`."""

    network: ClassVar[str] = "ppcls_core.models.networks.ghostnet:GhostNet"

    scale: PositiveFloat
    """Every width is multiplied by it and rounded to a multiple of 4."""
    stem_width: PositiveInt = 16
    """Channels of the first convolution, at scale 1."""
    blocks: NotEmpty[GhostBottleneck] = (
        GhostBottleneck(3, 16, 16, False, 1),
        GhostBottleneck(3, 48, 24, False, 2),
        GhostBottleneck(3, 72, 24, False, 1),
        GhostBottleneck(5, 72, 40, True, 2),
        GhostBottleneck(5, 120, 40, True, 1),
        GhostBottleneck(3, 240, 80, False, 2),
        GhostBottleneck(3, 200, 80, False, 1),
        GhostBottleneck(3, 184, 80, False, 1),
        GhostBottleneck(3, 184, 80, False, 1),
        GhostBottleneck(3, 480, 112, True, 1),
        GhostBottleneck(3, 672, 112, True, 1),
        GhostBottleneck(5, 672, 160, True, 2),
        GhostBottleneck(5, 960, 160, False, 1),
        GhostBottleneck(5, 960, 160, True, 1),
        GhostBottleneck(5, 960, 160, False, 1),
        GhostBottleneck(5, 960, 160, True, 1),
    )
    """The last one's expanded width is also that of the convolution before pooling."""
    feature_width: PositiveInt = 1280
    """Channels that the classifier sees, at any scale."""
    dropout: Probability = 0.2
    """Probability of dropping one of the classifier's inputs in training."""


VARIANTS = {
    "GhostNet_x0_5": GhostNetSpec(scale=0.5),
    "GhostNet_x1_0": GhostNetSpec(scale=1.0),
    "GhostNet_x1_3": GhostNetSpec(scale=1.3),
}
