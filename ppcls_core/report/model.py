"""The content of a report as plain values: filled by its stage, drawn by `figures` and `page`.

Every collection may be empty and every optional value None: the page then says in words that there
is nothing to show. Nothing here reads a file. At the end: how page and charts write the numbers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from data_catalog.base.words import counted
from ppcls_core.dedup.result.gallery import DuplicatePair
from ppcls_core.report.answers import Answers
from ppcls_core.report.intervals import is_noise, wilson

Image: TypeAlias = np.ndarray  # uint8 RGB [H, W, 3], already a small thumbnail


@dataclass(frozen=True)
class Headline:
    """The numbers of the report's first sentence; None is left out of it."""

    top1: float | None = None  # of the exported student, a fraction
    gain: float | None = None  # over the same student trained on labels alone, in points
    images_labelled: int | None = None  # pool images that got a soft label; without, of train
    duplicates_removed: int | None = None  # pool images that show a validation image
    stage: str | None = None  # which left the exported student
    gain_range: Sequence[float] = ()  # 95 % interval of `gain`
    has_pool: bool = True  # else the training images stand for it
    doubt: str = ""  # a sentence where the comparison with labels alone is unfair


@dataclass(frozen=True)
class StageRow:
    """One stage of the run."""

    name: str
    finished: str = ""  # when, in UTC
    images_in: int | None = None
    images_out: int | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    key: str = ""  # short hash


@dataclass(frozen=True)
class AccuracyRow:
    """One model on the validation images."""

    label: str  # teacher, baseline, distilled, finetuned, fixed
    architecture: str
    resolution: int | None  # pixels, the side of the network's input
    top1: float  # fraction
    top5: float  # fraction
    num_images: int
    gain: float | None  # over the baseline in points; None for teacher and baseline
    parameters: int | None
    gain_range: Sequence[float] = ()  # its 95 % interval, paired: of the same images
    change: float | None = None  # over the distilled one before in points; None for others
    change_range: Sequence[float] = ()

    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `top1` as two fractions: what another validation set of this
        size could have shown."""
        return wilson(self.top1, self.num_images)


@dataclass(frozen=True)
class Series:
    """Points of one line: `x` in epochs or steps, `y` of the same length; NaN leaves a gap."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), f"{len(self.x)} x for {len(self.y)} y"

    def last(self) -> tuple[float, float] | None:
        """The last point with a finite `y`, or None."""
        finite = [p for p in zip(self.x, self.y, strict=True) if math.isfinite(p[1])]
        return finite[-1] if finite else None


@dataclass(frozen=True)
class Curve:
    """How one training stage went; a series that was not recorded is empty."""

    stage: str
    loss: Series = Series()
    lr: Series = Series()
    val_top1: Series = Series()  # fractions
    x_name: str = "epoch"  # or "step"

    @property
    def is_line(self) -> bool:
        """Whether there are points to draw a line through."""
        return max(len(self.loss.x), len(self.val_top1.x)) > 1


@dataclass(frozen=True)
class PlantedRow:
    """`total` copies were planted with `transform`, of which `found` were found."""

    transform: str
    found: int
    total: int

    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the recall as two fractions."""
        return wilson(self.found / max(self.total, 1), self.total)


@dataclass(frozen=True, eq=False)
class ClassSample:
    """The images selected for one class."""

    name: str
    num_selected: int
    wanted: int  # k
    lowest_score: float | None  # of the images selected
    best: tuple[Image, ...] = ()  # up to 6, highest score first
    borderline: tuple[Image, ...] = ()  # up to 3 with the lowest scores


@dataclass(frozen=True)
class Histogram:
    """How many values lie between each two neighbouring `edges`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.edges) == len(self.counts) + 1, f"{len(self.edges)} edges"


@dataclass(frozen=True, eq=False)
class SelectionSummary:
    """The images selected out of the pool, and how sure the teacher was."""

    policy: str = "best"  # or "random"
    classes: tuple[ClassSample, ...] = ()
    scores: Histogram | None = None  # of what was selected
    entropies: Histogram | None = None  # of all pool images, in nats

    @property
    def unfilled(self) -> list[ClassSample]:
        """The classes with fewer images than wanted, the poorest first."""
        poor = [sample for sample in self.classes if sample.num_selected < sample.wanted]
        return sorted(poor, key=lambda sample: sample.num_selected)


@dataclass(frozen=True)
class CountRow:
    """Counts of the images of one stage: in, and out by reason."""

    stage: str
    images_in: int
    kept: int
    duplicates: int
    rejected: int

    @property
    def missing(self) -> int:
        """Images that are neither kept nor duplicates nor rejected; negative: counted twice."""
        return self.images_in - self.kept - self.duplicates - self.rejected

    @property
    def reconciles(self) -> bool:
        """True if every image is accounted for exactly once."""
        return self.missing == 0


@dataclass(frozen=True)
class LeftOut:
    """Images that a stage did without, and why."""

    stage: str
    reason: str
    number: int
    names: Sequence[str] = ()  # the first of them, where they are known


@dataclass(frozen=True)
class CleanRow:
    """A model's top-1 (a fraction) on the `num_images` validation images that no labelled image
    shows, beside that on all that it could read."""

    label: str
    top1: float
    clean_top1: float
    num_images: int


@dataclass(frozen=True, eq=False)
class Overlap:
    """`num_labelled` labelled images show `num_val` validation images; `removed`: nothing was
    trained on them. `pairs`: some to look at; `rows`: what each model reaches without those
    validation images."""

    num_labelled: int
    num_val: int
    removed: bool
    pairs: tuple[DuplicatePair, ...] = ()
    rows: tuple[CleanRow, ...] = ()

    def __str__(self) -> str:
        """Such as "2 labelled images show 1 of the validation images"."""
        shown = counted(self.num_labelled, "labelled image shows", "labelled images show")
        return f"{shown} {self.num_val:,} of the validation images"


@dataclass(frozen=True, eq=False)
class Report:
    """All that `page.render` shows."""

    title: str  # name of the recipe
    created_utc: str
    headline: Headline = Headline()
    stages: tuple[StageRow, ...] = ()
    accuracies: tuple[AccuracyRow, ...] = ()
    answers: Answers = field(default_factory=Answers)
    curves: tuple[Curve, ...] = ()
    duplicates: tuple[DuplicatePair, ...] = ()
    overlap: Overlap | None = None  # None: the labelled images were not searched
    decisions: Mapping[str, int] = field(default_factory=dict)  # of a person, on the pool's pairs
    planted: tuple[PlantedRow, ...] = ()  # in the pool, by those who made it
    canaries: tuple[PlantedRow, ...] = ()  # by the search itself
    too_few_features: int | None = None  # pool images kept though SIFT may not see what they show
    val_too_few_features: int | None = None  # validation images whose copies SIFT cannot find
    val_rejected: Mapping[str, int] = field(default_factory=dict)  # not searched for, by reason
    selection: SelectionSummary = SelectionSummary()
    reconciliation: tuple[CountRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    settings_yaml: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # label -> path relative to the store
    card: str | None = None  # name of the model card, which lies beside the page

    @property
    def has_top5(self) -> bool:
        """Whether a top-5 says something, as far as the classes are known."""
        return says_something(TOP5, len(self.answers.classes) or TOP5 + 1)


@dataclass(frozen=True)
class Rejected:
    """A file that was left out, and why."""

    image_id: str
    reason: str
    detail: str


@dataclass(frozen=True, eq=False)
class SearchReport:
    """All that `page.render_search` shows of a search for duplicates by itself."""

    counts: Mapping[str, int]  # of the pool
    canaries: tuple[PlantedRow, ...] = ()
    duplicates: tuple[DuplicatePair, ...] = ()
    within: bool = False  # whether the pool was searched within
    val_counts: Mapping[str, int] = field(default_factory=dict)  # empty within a pool
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that are no images
    decisions: Mapping[str, int] = field(default_factory=dict)  # of a person
    rejected: Sequence[Rejected] = ()  # the first files that are no usable images
    num_rejected: int = 0


TOP5 = 5


def says_something(k: int, num_classes: int) -> bool:
    """Whether a top-`k` of so many classes can be wrong."""
    return k < num_classes


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with what no page, SVG or UTF-8 file can hold (control and direction characters,
    half surrogates of undecodable file names) replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def percent(fraction: float, num_images: int = 0) -> str:
    """`fraction` in percent, without the sign; with two decimals from 10,000 images, else one."""
    if not math.isfinite(fraction):
        return "\u2013"
    return f"{100 * fraction:.2f}" if num_images >= 10_000 else f"{100 * fraction:.1f}"


def worse(gain: float | None, gain_range: Sequence[float]) -> str:
    """A sentence where a student's `gain` over the baseline, in points, is a loss; else ""."""
    if gain is None or round(gain, 1) >= 0 or not math.isfinite(gain):
        return ""
    points = f"is better by {-gain:.1f} points"
    if is_noise(gain_range):
        return f"the baseline, trained on labels alone, {points}, within noise"
    return f"the baseline {points}: labels alone serve you better here"


def signed(points: float) -> str:
    """Percentage points with their sign, to one decimal; minus is U+2212."""
    if not math.isfinite(points):
        return "\u2013"
    text = f"{points:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")
