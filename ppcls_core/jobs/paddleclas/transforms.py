"""The operators that PaddleClas's files list under `transforms` and `mix`, and ours for each.

Classes and fields have PaddleClas's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveFloat,
    TypeAdapter,
    model_validator,
)

from data_catalog.base.config import Config
from ppcls_core.data import augment
from ppcls_core.data.augment.common import Interval, Probability, Shares
from ppcls_core.data.augment.mix import Positive
from ppcls_core.models.specs import MEAN, STD, Colour

_INTERPOLATIONS = ("nearest", "linear", "cubic", "area", "lanczos", "linear")  # -1: the default
_AXES = ("vertical", "horizontal", "both")  # by OpenCV's flip code; -1: both
# A number as in OpenCV.
Number = Annotated[int, Field(ge=-1, le=4), PlainSerializer(_INTERPOLATIONS.__getitem__)]
Side = Annotated[int, Field(gt=0, le=4096)]  # pixels
Size = Side | tuple[Side, Side]
Count = Annotated[int, Field(ge=0, le=100)]
_OURS: TypeAdapter[Any] = TypeAdapter(augment.Operator | augment.BatchOperator)
# PaddleClas's operators and ours; the reader does the others.
OPERATORS = {
    "RandCropImage": "RandomCrop",
    "RandFlipImage": "RandomFlip",
    "ResizeImage": "Resize",
    "CropImage": "CenterCrop",
    "AutoAugment": "AutoAugment",
    "AA": "AutoAugment",
    "ImageNetPolicy": "AutoAugment",
    "RandAugment": "RandAugment",
    "Cutout": "Cutout",
    "HideAndSeek": "HideAndSeek",
    "MixupOperator": "Mixup",
    "CutmixOperator": "CutMix",
    "FmixOperator": "FMix",
}


@dataclass(frozen=True)
class Unused:
    """Marks a setting that is accepted and has no effect here: `reason` is told to the user."""

    reason: str


Layout = Annotated[Any, Unused("the reader lays pixels out by itself")]


class Section(Config):
    """A part of PaddleClas's file; what is null in it has its default."""

    def unused(self) -> dict[str, set[str]]:
        """Names of the settings that are given, here and below, and have no effect, by reason."""
        found: dict[str, set[str]] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            field = type(self).model_fields[name]
            for mark in field.metadata:
                if isinstance(mark, Unused):
                    found.setdefault(mark.reason, set()).add(field.alias or name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Section):
                    for reason, names in part.unused().items():
                        found.setdefault(reason, set()).update(names)
        return found

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


class OperatorSection(Section):
    """One operator, with its settings in PaddleClas's file; serialised under our names for them."""

    name: Any  # of one of the sections below

    def ours(self) -> Any:
        """Our operator; None for decoding, normalisation and layout, which the reader does."""
        name = OPERATORS.get(self.name)
        return name and _OURS.validate_python(self.model_dump(by_alias=True) | {"name": name})


class DecodeImageSection(OperatorSection):
    """From the bytes of a file to RGB pixels."""

    name: Literal["DecodeImage"] = "DecodeImage"
    to_rgb: Literal[True] = True  # the networks see RGB
    to_np: Layout = None  # published as `Fals`, too
    channel_first: Layout = None


def _fraction(given: Any) -> Any:
    """Value of a text such as `1./255.`, without evaluating code."""
    top, slash, bottom = str(given).partition("/")
    try:
        return float(top) / float(bottom) if slash else given
    except (ValueError, ZeroDivisionError):
        return given


class NormalizeImageSection(OperatorSection):
    """By a mean and deviation, after a factor; by default ImageNet's."""

    name: Literal["NormalizeImage"] = "NormalizeImage"
    scale: Annotated[PositiveFloat, BeforeValidator(_fraction)] = 1 / 255
    mean: Colour = MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = STD
    order: Layout = None
    channel_first: Layout = None
    output_fp16: Annotated[Any, Unused("the precision decides")] = None
    channel_num: Layout = None  # 4: with an empty one, for speed

    def colours(self) -> dict[str, Colour]:
        """`mean` and `std` of values in [0, 1], as a ModelSpec has them."""
        factor = self.scale * 255
        if abs(factor - 1) < 1e-6:  # 1/255 of a file is rounded
            factor = 1.0
        values = {"mean": self.mean, "std": self.std}
        return {name: (r / factor, g / factor, b / factor) for name, (r, g, b) in values.items()}


class RandCropImageSection(OperatorSection):
    """A random part of the image, resized."""

    name: Literal["RandCropImage"] = "RandCropImage"
    size: Size
    scale: Shares = augment.RandomCrop().scale
    ratio: Interval = augment.RandomCrop().ratio
    interpolation: Number = -1


class RandFlipImageSection(OperatorSection):
    """A mirroring, half of the time."""

    name: Literal["RandFlipImage"] = "RandFlipImage"
    flip_code: Annotated[Literal[1, 0, -1], PlainSerializer(_AXES.__getitem__)] = Field(
        default=1, serialization_alias="axis"
    )


class ResizeImageSection(OperatorSection):
    """To a short side or a size."""

    name: Literal["ResizeImage"] = "ResizeImage"
    resize_short: Side | None = Field(default=None, serialization_alias="short")
    size: Size | None = None
    interpolation: Number = -1

    @model_validator(mode="after")
    def _has_a_size(self) -> ResizeImageSection:
        if (self.resize_short is None) == (self.size is None):
            raise ValueError("expected one of `resize_short` and `size`")
        return self


class CropImageSection(OperatorSection):
    """The middle of the image."""

    name: Literal["CropImage"] = "CropImage"
    size: Size


class PlainSection(OperatorSection):
    """An operator without settings; three names mean ImageNet's policy of Cubuk et al. 2018."""

    name: Literal["ToCHWImage", "AutoAugment", "AA", "ImageNetPolicy", "HideAndSeek"]


class RandAugmentSection(OperatorSection):
    """`num_layers` operations of one magnitude."""

    name: Literal["RandAugment"] = "RandAugment"
    num_layers: Count = 2
    magnitude: Annotated[float, Field(ge=0, le=10)] = 5


class CutoutSection(OperatorSection):
    """Square holes."""

    name: Literal["Cutout"] = "Cutout"
    n_holes: Count = Field(default=1, serialization_alias="num_holes")
    length: Side = 112


class RandomErasingSection(OperatorSection):
    """A rectangle erased, with probability EPSILON."""

    name: Literal["RandomErasing"] = "RandomErasing"
    EPSILON: Probability = 0.5
    sl: Probability = 0.02
    sh: Probability = 0.4
    r1: Annotated[float, Field(gt=0, le=1)] = 0.3
    attempt: Annotated[int, Field(gt=0, le=10_000)] = 100
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the fill, of normalised pixels

    @model_validator(mode="after")
    def _is_ours(self) -> RandomErasingSection:
        if not 0 < self.sl <= self.sh:
            raise ValueError("expected `sl` above 0 and at most `sh`")
        if any(self.mean):
            raise ValueError("expected a `mean` of 0, which is the mean colour")
        return self

    def ours(self) -> augment.RandomErasing:
        """Our operator, which has one setting for two of these."""
        area, aspect = (self.sl, self.sh), (self.r1, 1 / self.r1)
        return augment.RandomErasing(
            prob=self.EPSILON, area=area, aspect=aspect, attempts=self.attempt
        )


class GridMaskSection(OperatorSection):
    """A grid of squares masked."""

    name: Literal["GridMask"] = "GridMask"
    d1: Side = 96
    d2: Side = 224
    rotate: Annotated[int, Field(ge=1, le=360)] = 1
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mode: Literal[0, 1] = 0
    prob: Probability = 1.0

    @model_validator(mode="after")
    def _rises(self) -> GridMaskSection:
        if self.d1 >= self.d2:
            raise ValueError("expected `d1` below `d2`")
        return self

    def ours(self) -> augment.GridMask:
        """Our operator, which has one setting for `d1` and `d2`."""
        settings = self.model_dump(exclude={"name", "d1", "d2"})
        return augment.GridMask(d=(self.d1, self.d2), **settings)


class PairsSection(OperatorSection):
    """Images blended in pairs, or with a rectangle of another image put in."""

    name: Literal["MixupOperator", "CutmixOperator"]
    alpha: Positive = 0.2


class FmixOperatorSection(OperatorSection):
    """A shape of low frequencies of another image put in."""

    name: Literal["FmixOperator"] = "FmixOperator"
    alpha: Positive = 1.0
    decay_power: Positive = Field(default=3.0, serialization_alias="decay")


def _named(item: Any) -> Any:
    """`Name: {settings}`, `Name: null` or `Name` with the name among the settings."""
    if isinstance(item, str):
        return {"name": item}
    if not isinstance(item, dict) or len(item) != 1:
        raise ValueError("expected one name, its settings indented below it")
    ((name, settings),) = item.items()
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"expected `key: value` lines below {name}")
    return {**(settings or {}), "name": name}


Transform = Annotated[
    DecodeImageSection
    | NormalizeImageSection
    | RandCropImageSection
    | RandFlipImageSection
    | ResizeImageSection
    | CropImageSection
    | RandAugmentSection
    | CutoutSection
    | RandomErasingSection
    | PlainSection
    | GridMaskSection,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
Mix = Annotated[
    PairsSection | FmixOperatorSection, Field(discriminator="name"), BeforeValidator(_named)
]
