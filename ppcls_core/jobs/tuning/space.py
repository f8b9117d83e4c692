"""The space of a search: which settings of a training file are tried, and with which values.

training.lr: [0.1, 0.03, 0.01]              # values; numbers in order are searched as such
training.lr: {low: 1e-4, high: 0.1, log: true}  # any number between two
mixup:                                      # several settings that change together, by name
  without: {use_mix: false}
  with: {use_mix: true, "TRAIN.mix": [{MixupOperator: {alpha: 0.2}}]}
"""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import field_validator, model_validator

from data_catalog.base.config import Config, UserError, closest, load_yaml, parse
from data_catalog.base.errors import errors_of
from ppcls_core.jobs import paddleclas
from ppcls_core.jobs.job import RUN_TIME, Job, load_job, read_settings

# PaddleClas of 2020, docs/en/application/transfer_learning_en.md: 7 x 7 x 2 x 2 = 196 points, after
# Kornblith, Shlens and Le 2019. There smoothing and mixup are switches; 0.1 and alpha 0.2 are what
# its training files have where they are on.
_LR = [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001]
_L2 = [1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6]
_OWN = {
    "training.lr": _LR,
    "training.regularizer.factor": _L2,
    "training.label_smoothing": [0.0, 0.1],
    "training.mix": [None, {"name": "Mixup", "alpha": 0.2}],
}
_PADDLECLAS = {
    "LEARNING_RATE.params.lr": _LR,
    "OPTIMIZER.regularizer.factor": _L2,
    "ls_epsilon": [0.0, 0.1],
    "mixup": {
        "without": {"use_mix": False},
        "with": {"use_mix": True, "TRAIN.mix": [{"MixupOperator": {"alpha": 0.2}}]},
    },
}
BUILT_IN = "transfer"  # the name of the space above, in the keys of either form of a file
DIGITS = 4  # significant ones of a number drawn from a range


class Range(Config):
    """All numbers from `low` to `high`, whole ones if these are; under `log` each decade alike."""

    low: int | float
    high: int | float
    log: bool = False

    @field_validator("low", "high", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _number(value)

    @model_validator(mode="after")
    def _has_numbers(self) -> "Range":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("expected low < high, and 0 < low under `log`")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Axis:
    """One setting, or several under a name, and what is tried: a range, or choices by label.

    A choice is the overrides (a.b=value) that make it. `is_ordered`: the choices are numbers that
    rise or fall.
    """

    name: str
    choices: Mapping[str, tuple[str, ...]]
    range: Range | None = None
    is_ordered: bool = False

    def overrides(self, value: Any) -> tuple[str, ...]:
        """The settings of a label, or of a number of the range."""
        if self.range is None:
            return self.choices[value]
        return (f"{self.name}={value_text(value)}",)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values, or the two ends of a range."""
        return (self.range.low, self.range.high) if self.range else tuple(self.choices)


@dataclass(frozen=True)
class Space:
    """The axes of a search."""

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int | None:
        """Number of points; None where an axis is a range."""
        return None if any(axis.range for axis in self.axes) else math.prod(map(_len, self.axes))

    def overrides(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings of a point, which has a value for each axis by name."""
        return tuple(itertools.chain(*(axis.overrides(point[axis.name]) for axis in self.axes)))

    def points(self) -> Iterator[dict[str, Any]]:
        """All points of a space without ranges, the last axis fastest."""
        for values in itertools.product(*(axis.choices for axis in self.axes)):
            yield dict(zip((axis.name for axis in self.axes), values, strict=True))

    def described(self) -> dict[str, Any]:
        """The choices or range of each axis, as JSON."""
        return {
            axis.name: axis.range.model_dump() if axis.range else dict(axis.choices)
            for axis in self.axes
        }


def _len(axis: Axis) -> int:
    return len(axis.choices)


def load_space(name: str, config: Path, settings: Sequence[str]) -> Space:
    """The space BUILT_IN, or that of the YAML file `name`, for a training file and its overrides.

    Raises UserError: no such file, nothing to search, a key that the training file does not know, a
    value that it refuses, an axis that changes no weight whatever its value.
    """
    if name == BUILT_IN:
        data = _PADDLECLAS if paddleclas.is_paddleclas(_content(config)) else _OWN
    else:
        if not Path(name).exists() and (near := closest(name, [BUILT_IN])):
            raise UserError(f"--space {name}: no such file{near}")
        with errors_of("--space"):
            data = load_yaml(Path(name))
    if not data:
        raise UserError(f"--space {name}: is empty, expected `setting: [values]` lines")
    space = Space(tuple(_axis(axis, tried, f"--space {name}") for axis, tried in data.items()))
    with errors_of(f"--space {name}"):
        _check(space, config, settings)
    return space


def _content(config: Path) -> dict[str, Any]:
    return read_settings(config, lambda repeated: None)


def _axis(name: str, tried: Any, where: str) -> Axis:
    if isinstance(tried, dict) and tried.keys() & Range.model_fields.keys():
        return Axis(name, {}, parse(Range, tried, f"{where}: {name}"))
    if isinstance(tried, dict) and all(isinstance(v, dict) and v for v in tried.values()):
        choices = {
            label: tuple(f"{key}={value_text(_number(value))}" for key, value in settings.items())
            for label, settings in tried.items()
        }
        values: list[Any] = []
    elif isinstance(tried, list):
        values = list(map(_number, tried))
        choices = {value_text(value): (f"{name}={value_text(value)}",) for value in values}
        if len(choices) < len(values):
            raise UserError(f"{where}: {name}: a value is given twice; keep one")
    else:
        raise UserError(
            f"{where}: {name}: got {str(tried)[:80]!r}, expected a list of values, "
            "{low: a, high: b}, or choices by name: {name: {setting: value}}"
        )
    if len(choices) < 2:
        raise UserError(f"{where}: {name}: has nothing to choose from; give two values or more")
    return Axis(name, choices, is_ordered=_is_ordered(values))


def _is_ordered(values: Sequence[Any]) -> bool:
    is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return len(values) > 2 and is_numeric and values in (sorted(values), sorted(values)[::-1])


def _number(value: Any) -> Any:
    """`value`; as a number what YAML takes for text, such as 1e-3."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def value_text(value: Any) -> str:
    """`value` as it is written on the right of an override."""
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _check(space: Space, config: Path, settings: Sequence[str]) -> None:
    """Raise UserError unless all values can be trained with, and all axes change the training."""
    first, last = ({axis.name: axis.ends[end] for axis in space.axes} for end in (0, -1))
    for axis in space.axes:
        seen: list[list[dict[str, Any]]] = []
        for value in axis.ends:
            points = (others | {axis.name: value} for others in (first, last))
            overrides = (space.overrides(point) for point in points)
            jobs = (load_quietly(config, [*settings, *each]) for each in overrides)
            seen.append([weights_settings(job) for job in jobs])
        for number, made in enumerate(seen):
            if made in seen[:number]:
                same = f"{axis.ends[seen.index(made)]} and {axis.ends[number]}"
                raise UserError(
                    f"{axis.name}: does nothing here: {same} make the same training; leave it out"
                )


def weights_settings(job: Job) -> dict[str, Any]:
    """The settings of `job` that its weights depend on, as JSON."""
    return job.model_dump(mode="json", exclude=RUN_TIME | {"output"})


def load_quietly(config: Path, settings: Sequence[str]) -> Job:
    """As `load_job`, without the notes on PaddleClas's file: they are told once, not a trial."""
    logger = logging.getLogger(paddleclas.__name__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return load_job(config, list(settings))
    finally:
        logger.setLevel(before)
