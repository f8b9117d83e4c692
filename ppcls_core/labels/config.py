"""Settings of a teacher that is no network of Paddle, and its classes matched with the data's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from data_catalog.base.config import Config, UserError
from data_catalog.base.words import counted
from data_catalog.images.classes import read_classes
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.sidecar import SIDECAR, read_sidecar
from ppcls_core.models.specs import MEAN, STD

Outputs = Literal["logits", "probabilities"]
FLOOR = 1e-7  # probabilities below are taken as this: half a step of float32 under 1
MAX_DEVIATION = 0.1  # of the sum of an image's probabilities from 1: a CSV rounds each of them
_SURE = 1e-3  # the same of numbers that nobody called probabilities
_SHOWN = 5  # names in a message
Weight = Annotated[
    float | None, Field(default=None, gt=0, exclude_if=lambda weight: weight is None)
]
"""Share of a teacher in the mean of several, as the others' add up to; None: 1."""


class OnnxPreprocess(Preprocess):
    """Test-time preprocessing, and the normalisation of RGB values in [0, 1]."""

    mean: tuple[float, float, float] = MEAN  # subtracted; ImageNet's by default
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = STD  # divides the difference


class OnnxConfig(Config):
    """A teacher in an ONNX file, run by onnxruntime: one input of images, one output of scores."""

    onnx: str  # relative to the recipe
    preprocess: OnnxPreprocess | None = None
    """None: that of the sidecar.json beside the file, as `ppcls export --onnx` writes it."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"  # of the input
    channels: Literal["RGB", "BGR"] = "RGB"  # order of the input's colours
    outputs: Outputs = "logits"  # what the numbers are
    classes: str | None = None  # a name a line; None: those of the sidecar.json, if there is one
    weight: Weight = None  # its share in the mean of several; none: 1

    @property
    def title(self) -> str:
        """Its name in a report."""
        return Path(self.onnx).name

    def order(self, classes: Sequence[str]) -> tuple[int, ...]:
        """As `class_order`, of its names for the data's `classes`; without names the same order."""
        theirs = read_names(Path(self.classes)) if self.classes else classes
        return class_order(theirs, classes, str(self.classes))


class LabelFileConfig(Config):
    """A teacher whose outputs were computed elsewhere: a Parquet or CSV file by image id."""

    labels: str  # Parquet or CSV, relative to the recipe: image_id and a column a class
    outputs: Outputs = "logits"  # what the numbers are
    classes: str | None = None  # of Parquet with one column of lists; other columns have names
    weight: Weight = None  # its share in the mean of several; none: 1
    preprocess: ClassVar[None] = None

    @property
    def title(self) -> str:
        """Its name in a report."""
        return Path(self.labels).name


def read_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, or in a sidecar.json."""
    return read_sidecar(path).classes if path.name == SIDECAR else read_classes(path)


def class_order(theirs: Sequence[str], ours: Sequence[str], source: str) -> tuple[int, ...]:
    """The position among the teacher's classes `theirs` of each of the data's classes `ours`.

    Names that are the classes' numbers say nothing: then the order is taken as the same.

    Raises UserError: the classes are not the same; `source` says where the teacher's stand.
    """
    numbers = tuple(map(str, range(len(ours))))
    if len(theirs) == len(ours) and numbers in (tuple(theirs), tuple(ours)):
        return tuple(range(len(ours)))
    missing, extra = (
        [n for n in a if n not in set(b)] for a, b in ((ours, theirs), (theirs, ours))
    )
    if missing or extra or len(theirs) != len(ours):
        raise UserError(
            f"{source}: its {counted(len(theirs), 'class is', 'classes are')} not the {len(ours)} "
            f"of the data set{_listed('; it lacks', missing)}{_listed('; only it has', extra)}: "
            "give a teacher of these classes, or correct the names"
        )
    places = {name: place for place, name in enumerate(theirs)}
    return tuple(places[name] for name in ours)


def _listed(begin: str, names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{begin} {shown}{more}" if names else ""


def as_logits(values: np.ndarray, outputs: Outputs) -> np.ndarray:
    """float32 [N, C] logits out of `values` [N, C]; a probability under FLOOR counts as FLOOR.

    Raises BadRow: the numbers cannot be what `outputs` calls them.
    """
    values = values.astype(np.float32, copy=False)
    _check(
        np.isnan(values) | np.isposinf(values),
        "has NaN or infinity among its numbers: correct them",
    )
    in_range = (values >= 0) & (values <= 1 + _SURE)
    deviation = np.abs(values.sum(1, dtype=np.float64, keepdims=True) - 1)
    if outputs == "probabilities":
        reason = "are no probabilities: set `outputs: logits`, or correct them"
        _check(~in_range, f"has numbers under 0 or over 1, which {reason}")
        _check(deviation > MAX_DEVIATION, f"has numbers whose sum is not 1, which {reason}")
        return np.log(np.maximum(values, FLOOR))
    alike = in_range.all(1, keepdims=True) & (deviation < _SURE)
    if min(values.shape) > 1 and alike.all():  # of one image it might be chance
        raise BadRow(0, "has numbers from 0 to 1 with the sum 1: set `outputs: probabilities`")
    return values


class BadRow(Exception):
    """Row number `row` of a batch, from 0, cannot be used; the text says why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def _check(bad: np.ndarray, reason: str) -> None:
    """Raise BadRow for the first row of bool [N, ...] `bad` that has anything set."""
    for row in np.flatnonzero(bad.any(1))[:1].tolist():
        raise BadRow(row, reason)
