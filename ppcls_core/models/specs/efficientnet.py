"""EfficientNet, Tan and Le 2019, "EfficientNet: Rethinking Model Scaling": the variants.

EfficientNet-Lite is Google's of 2020, for phones, with weights by its authors.
"""

from typing import ClassVar, Literal, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from ppcls_core.models.specs import ModelSpec, NotEmpty, Probability


class MBConvStage(NamedTuple):
    """Inverted residual blocks of one width. A recipe writes it as a list: `[5, 6, 40, 2, 2]`."""

    kernel: Literal[3, 5]
    expansion: PositiveInt
    """The depthwise convolutions have so many times their block's input channels."""
    out: PositiveInt
    """Channels at width factor 1."""
    depth: PositiveInt
    """Blocks at depth factor 1."""
    stride: Literal[1, 2]
    """Stride of the first block; the others have 1."""


class EfficientNetSpec(ModelSpec):
    """Stages of inverted residual blocks, widened and deepened by two factors.

    The settings named as in PaddleClas's YAML files are `padding_type`, `drop_connect_rate`,
    `fix_head_stem` and `relu_fn`.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.efficientnet:EfficientNet"

    width_factor: PositiveFloat = 1.0
    """Every width is multiplied by it and rounded to a multiple of 8."""
    depth_factor: PositiveFloat = 1.0
    """Every stage's number of blocks is multiplied by it and rounded up."""
    resolution: PositiveInt = 224
    """Width and height of the images that padding SAME is meant for; others are padded alike."""
    dropout: Probability = 0.2
    """Probability of dropping one of the classifier's inputs in training."""
    drop_connect_rate: Probability = 0.2
    """Probability, in training, that an image skips a block: it rises linearly from 0 towards this
    one, which the block after the last would have."""
    padding_type: Literal["SAME", "DYNAMIC"] = "SAME"
    """SAME: TensorFlow's, where stride 2 on an even size pads one place more behind than before;
    DYNAMIC: (kernel - 1) / 2 on all sides."""
    squeeze_excite: bool = True
    """Every block has squeeze-and-excite."""
    fix_head_stem: bool = False
    """As in EfficientNet-Lite, the factors leave out the first and last convolution's width and
    the first and last stage's depth."""
    relu_fn: bool = False
    """As in EfficientNet-Lite, relu6 takes the place of swish."""
    stages: NotEmpty[MBConvStage] = (
        MBConvStage(3, 1, 16, 1, 1),
        MBConvStage(3, 6, 24, 2, 2),
        MBConvStage(5, 6, 40, 2, 2),
        MBConvStage(3, 6, 80, 3, 2),
        MBConvStage(5, 6, 112, 3, 1),
        MBConvStage(5, 6, 192, 4, 2),
        MBConvStage(3, 6, 320, 1, 1),
    )
    stem_width: PositiveInt = 32
    """Channels of the first convolution, at width factor 1."""
    feature_width: PositiveInt = 1280
    """Channels that the classifier sees, at width factor 1."""


def _spec(width: float, depth: float, resolution: int, dropout: float) -> EfficientNetSpec:
    return EfficientNetSpec(
        width_factor=width, depth_factor=depth, resolution=resolution, dropout=dropout
    )


def _lite(width: float, depth: float, resolution: int, dropout: float) -> EfficientNetSpec:
    scaled = _spec(width, depth, resolution, dropout)
    pixels = {"mean": (0.498,) * 3, "std": (0.502,) * 3, "interpolation": "cubic"}
    network = {"squeeze_excite": False, "fix_head_stem": True, "relu_fn": True}
    return scaled.model_copy(update=pixels | network)


VARIANTS = {
    "EfficientNetB0_small": EfficientNetSpec(padding_type="DYNAMIC", squeeze_excite=False),
    "EfficientNetB0": _spec(1.0, 1.0, 224, 0.2),
    "EfficientNetB1": _spec(1.0, 1.1, 240, 0.2),
    "EfficientNetB2": _spec(1.1, 1.2, 260, 0.3),
    "EfficientNetB3": _spec(1.2, 1.4, 300, 0.3),
    "EfficientNetB4": _spec(1.4, 1.8, 380, 0.4),
    "EfficientNetB5": _spec(1.6, 2.2, 456, 0.4),
    "EfficientNetB6": _spec(1.8, 2.6, 528, 0.5),
    "EfficientNetB7": _spec(2.0, 3.1, 600, 0.5),
    "EfficientNetLite0": _lite(1.0, 1.0, 224, 0.2),
    "EfficientNetLite1": _lite(1.0, 1.1, 240, 0.2),
    "EfficientNetLite2": _lite(1.1, 1.2, 260, 0.3),
}
