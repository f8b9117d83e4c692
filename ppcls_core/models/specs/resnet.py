"""ResNet and its descendants: the variants.

He et al. 2015 (ResNet) and 2019, "Bag of Tricks" (vc, vd); Xie et al. 2016 (ResNeXt); Mahajan et
al. 2018 (WSL, the published teachers); Hu et al. 2017 (SE, SENet); Gao et al. 2019 (Res2Net); Ding
et al. 2019 (ACNet).
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from ppcls_core.models.specs import FourStages, LearningRateFactors, ModelSpec

Width = Annotated[int, Field(ge=2, multiple_of=2)]


class Layout(NamedTuple):
    """Names of the parts in published weights; `stem.0` is the part 0 of a part `stem`."""

    stem: str
    """The plain stem's one convolution."""
    deep_stem: tuple[str, str, str]
    block: str
    """Format of `number` among all blocks, `index` in the stage, and `stage`, all from 0, or
    `ordinal`, the stage from 1."""
    classifier: str
    unit: tuple[str, str]
    """The convolution and the batch norm in each of these."""
    conv: str = "conv{}"
    """Format of a number from 0: a block's convolutions."""
    short: str = "short"


_STAGED = Layout(
    stem="conv",
    deep_stem=("conv1_1", "conv1_2", "conv1_3"),
    block="bb_{stage}_{index}",
    classifier="out",
    unit=("_conv", "_batch_norm"),
)
LAYOUTS = {
    "sequential": Layout(
        stem="stem.0",
        deep_stem=("stem.0", "stem.1", "stem.2"),
        block="blocks.{number}",
        classifier="fc",
        unit=("conv", "bn"),
    ),
    "staged": _STAGED,
    "res2net": _STAGED._replace(stem="conv1"),
    "wsl": Layout(
        stem="_conv_stem",
        deep_stem=("_conv_stem1", "_conv_stem2", "_conv_stem3"),
        block="_conv{ordinal}_{index}",
        conv="_conv{}",
        short="_short._conv",
        classifier="_out",
        unit=("_conv", "_bn"),
    ),
}


class ResNetSpec(ModelSpec):
    """A stem, four stages of residual blocks that each double the width, one linear layer."""

    network: ClassVar[str] = "ppcls_core.models.networks.resnet:ResNet"

    depths: FourStages
    """Residual blocks of each stage."""
    bottleneck: bool = True
    """1x1, 3x3, 1x1 blocks that put out four times `width`; else two 3x3 convolutions."""
    width: Width = 64
    """Channels of stage 1, doubled by each stage: of its 3x3 convolutions, where no `group_width`
    says otherwise, and by `bottleneck` of what its blocks put out."""
    deep_stem: bool = False
    """Three 3x3 convolutions before the pooling (vc, vd); else one of 7x7."""
    stem_width: Width | None = None
    """Channels that the stem puts out, `width` if not given; a deep one starts with half."""
    average_shortcut: bool = False
    """Shortcuts that halve the size average (vd), where a strided 1x1 would skip 3 of 4 places."""
    cardinality: PositiveInt = 1
    """Groups of every bottleneck's 3x3 convolution (ResNeXt)."""
    group_width: PositiveInt | None = None
    """Channels of one group, or of one scale, in stage 1's bottlenecks; `width` if not given."""
    scales: PositiveInt = 1
    """Parts that a bottleneck's 3x3 convolution takes one after the other (Res2Net)."""
    reduction: PositiveInt | None = None
    """Every block ends in squeeze-and-excite that narrows its channels so many times; or none."""
    spatial: Literal["plain", "asymmetric", "fused"] = "plain"
    """Convolutions wider than 1x1: with batch norm, as ACNet's blocks in training, or as what these
    become in inference."""
    layout: Literal["sequential", "staged", "res2net", "wsl"] = "sequential"
    """Names of the weights: a key of LAYOUTS."""
    lr_mult_list: LearningRateFactors = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors of the learning rate, of the stem and the four stages; the classifier has 1."""

    @field_validator("cardinality", "group_width", "scales")
    @classmethod
    def _bottlenecks_have_groups(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, 1) and info.data.get("bottleneck") is False:
            raise ValueError("only bottleneck blocks have groups and scales; leave it out")
        return value

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        """Stage and index in it, both from 0, and path in the network of every block in order."""
        number = 0
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                numbers = {"number": number, "stage": stage, "ordinal": stage + 1, "index": index}
                yield stage, index, LAYOUTS[self.layout].block.format_map(numbers)
                number += 1

    def inner(self, stage: int) -> int:
        """Channels of the 3x3 convolutions in the blocks of `stage`, from 0."""
        return (self.group_width or self.width) * self.cardinality * self.scales << stage

    def out(self, stage: int) -> int:
        """Channels that the blocks of `stage`, from 0, put out."""
        return self.width * (4 if self.bottleneck else 1) << stage


def block_name(stage: int, index: int, depth: int) -> str:
    """Name of block `index` of the `depth` in `stage`, all from 0, in Caffe's style: `res2a`.

    Where letters could run out, stage 2 counts from its second block on: `res4a`, `res4b1`.
    """
    numbered = stage == 2 and depth > 10 and index > 0
    return f"res{stage + 2}" + (f"b{index}" if numbered else chr(ord("a") + index))


_18 = (2, 2, 2, 2)
_34 = _50 = (3, 4, 6, 3)
_101 = (3, 4, 23, 3)
_152 = (3, 8, 36, 3)
_200 = (3, 12, 48, 3)

# Settings that variants share.
_VD: dict[str, Any] = {"deep_stem": True, "average_shortcut": True}
_NEXT: dict[str, Any] = {"group_width": 4, "layout": "staged"}
_SE: dict[str, Any] = {"reduction": 16, "layout": "staged"}
_SE_NEXT: dict[str, Any] = {**_SE, **_NEXT}
_SE_NEXT_VD: dict[str, Any] = {**_SE_NEXT, **_VD, "stem_width": 128}
_WSL: dict[str, Any] = {"depths": _101, "cardinality": 32, "layout": "wsl"}
_RES2: dict[str, Any] = {"group_width": 26, "scales": 4, "layout": "res2net"}

VARIANTS = {
    "ResNet18": ResNetSpec(depths=_18, bottleneck=False),
    "ResNet34": ResNetSpec(depths=_34, bottleneck=False),
    "ResNet50": ResNetSpec(depths=_50),
    "ResNet101": ResNetSpec(depths=_101),
    "ResNet152": ResNetSpec(depths=_152),
    "ResNet50_vc": ResNetSpec(depths=_50, deep_stem=True, layout="staged"),
    "ResNet18_vd": ResNetSpec(depths=_18, bottleneck=False, **_VD),
    "ResNet34_vd": ResNetSpec(depths=_34, bottleneck=False, **_VD),
    "ResNet50_vd": ResNetSpec(depths=_50, **_VD),
    "ResNet101_vd": ResNetSpec(depths=_101, **_VD),
    "ResNet152_vd": ResNetSpec(depths=_152, **_VD),
    "ResNet200_vd": ResNetSpec(depths=_200, **_VD),
    "ResNet50_ACNet": ResNetSpec(depths=_50, spatial="asymmetric"),
    "ResNet50_ACNet_deploy": ResNetSpec(depths=_50, spatial="fused"),
    **{
        f"ResNeXt{layers}{kind}_{cardinality}x4d": ResNetSpec(
            depths=depths, cardinality=cardinality, **_NEXT, **settings
        )
        for kind, settings in (("", {}), ("_vd", _VD))
        for layers, depths in ((50, _50), (101, _101), (152, _152))
        for cardinality in (32, 64)
    },
    **{f"ResNeXt101_32x{w}d_wsl": ResNetSpec(group_width=w, **_WSL) for w in (8, 16, 32, 48)},
    "SE_ResNet18_vd": ResNetSpec(depths=_18, bottleneck=False, **_SE, **_VD),
    "SE_ResNet34_vd": ResNetSpec(depths=_34, bottleneck=False, **_SE, **_VD),
    "SE_ResNet50_vd": ResNetSpec(depths=_50, **_SE, **_VD),
    "SE_ResNeXt50_32x4d": ResNetSpec(depths=_50, cardinality=32, **_SE_NEXT),
    "SE_ResNeXt101_32x4d": ResNetSpec(depths=_101, cardinality=32, **_SE_NEXT),
    "SE_ResNeXt50_vd_32x4d": ResNetSpec(depths=_50, cardinality=32, **_SE_NEXT_VD),
    "SENet154_vd": ResNetSpec(depths=_152, cardinality=64, **_SE_NEXT_VD),
    "Res2Net50_26w_4s": ResNetSpec(depths=_50, **_RES2),
    "Res2Net50_14w_8s": ResNetSpec(depths=_50, group_width=14, scales=8, layout="res2net"),
    "Res2Net50_vd_26w_4s": ResNetSpec(depths=_50, **_RES2, **_VD),
    "Res2Net101_vd_26w_4s": ResNetSpec(depths=_101, **_RES2, **_VD),
    "Res2Net200_vd_26w_4s": ResNetSpec(depths=_200, **_RES2, **_VD),
}
