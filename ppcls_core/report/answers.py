"""The answers of the models on the validation images, and what can be read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ppcls_core.report.intervals import paired_interval

NUM_BINS = 10  # of confidence, of equal width
NUM_CONFUSED = 15  # rows shown


@dataclass(frozen=True)
class Confused:
    """How many of a class's images a model takes for another class."""

    label: str
    predicted: str
    number: int
    of: int  # images of the class


@dataclass(frozen=True)
class ClassAccuracy:
    """A class and the share of its images that each model has right, by the model's label."""

    name: str
    num_images: int
    top1: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class WrongImage:
    """An image that the student has wrong and the teacher right; probabilities are their own."""

    image_id: str
    label: str
    student: str
    student_probability: float
    teacher_probability: float
    picture: np.ndarray | None = None  # uint8 RGB [H, W, 3], a small one


@dataclass(frozen=True)
class Reliability:
    """Bins of one model's answers by their probability: how many, its mean and the accuracy."""

    model: str
    number: np.ndarray  # int [NUM_BINS]
    confidence: np.ndarray  # float [NUM_BINS], mean probability; NaN in an empty bin
    accuracy: np.ndarray  # float [NUM_BINS]

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017), a fraction; NaN without answers."""
        total = self.number.sum()
        gaps = np.abs(self.confidence - self.accuracy) * self.number
        return float(np.nansum(gaps) / total) if total else float("nan")


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of the models, by their labels: of `ids` [N] images with `labels` [N], `predicted`
    int [N] (-1: not asked) and `probability` float [N] of that answer. `student` is the label of
    the exported one; `wrong` holds the images to be shown."""

    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    predicted: Mapping[str, np.ndarray] = field(default_factory=dict)
    probability: Mapping[str, np.ndarray] = field(default_factory=dict)
    student: str = ""
    wrong: tuple[WrongImage, ...] = ()

    @property
    def shown(self) -> list[str]:
        """Teacher, baseline and student, as far as they answered."""
        wanted = dict.fromkeys(("teacher", "baseline", self.student))
        return [name for name in wanted if name in self.predicted]

    def matrix(self, model: str) -> np.ndarray:
        """int [C, C]: images by class (row) and predicted class (column)."""
        asked = self.predicted[model] >= 0
        found = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(found, (self.labels[asked], self.predicted[model][asked]), 1)
        return found

    def confused(self) -> list[Confused]:
        """The commonest mistakes of the student, at most NUM_CONFUSED."""
        if self.student not in self.predicted:
            return []
        found = self.matrix(self.student)
        total = found.sum(1)
        np.fill_diagonal(found, 0)
        order = np.argsort(-found, axis=None, kind="stable")[:NUM_CONFUSED]
        places = zip(*np.unravel_index(order, found.shape), strict=True)
        return [
            Confused(self.classes[a], self.classes[b], int(found[a, b]), int(total[a]))
            for a, b in places
            if found[a, b]
        ]

    def by_class(self) -> list[ClassAccuracy]:
        """Each class that has images, the student's worst first."""
        models, rows = self.shown, list[ClassAccuracy]()
        for number, name in enumerate(self.classes):
            own = self.labels == number
            shares = {}
            for model in models:
                asked = own & (self.predicted[model] >= 0)
                if asked.any():
                    shares[model] = float((self.predicted[model][asked] == number).mean())
            if own.any():
                rows.append(ClassAccuracy(name, int(own.sum()), shares))
        return sorted(rows, key=lambda row: row.top1.get(self.student, 0.0))

    def calibration(self) -> list[Reliability]:
        """The calibration of each model shown."""
        return [self._calibration(model) for model in self.shown]

    def _calibration(self, model: str) -> Reliability:
        asked = (self.predicted[model] >= 0) & np.isfinite(self.probability[model])
        share, right = self.probability[model][asked], (self.predicted[model] == self.labels)[asked]
        bins = np.minimum((share * NUM_BINS).astype(int), NUM_BINS - 1)
        number = np.bincount(bins, minlength=NUM_BINS)
        with np.errstate(invalid="ignore"):
            means = [np.bincount(bins, values, NUM_BINS) / number for values in (share, right)]
        return Reliability(model, number, *means)

    def student_alone_wrong(self) -> np.ndarray:
        """Rows that the student has wrong and the teacher right, its surest mistakes first."""
        if not {"teacher", self.student} <= self.predicted.keys():
            return np.zeros(0, int)
        is_wrong = (self.predicted[self.student] != self.labels) & (
            self.predicted["teacher"] == self.labels
        )
        rows = np.flatnonzero(is_wrong)
        return rows[np.argsort(-self.probability[self.student][rows], kind="stable")]


def difference(one: pa.Table, other: pa.Table) -> tuple[float, list[float]]:
    """By how many points one model's top-1 is above another's on the images that both have seen
    (columns image_id and rank, 0 where the answer is right), and its paired 95 % interval."""
    columns = ["image_id", "rank"]
    pairs = one.select(columns).join(other.select(columns), "image_id", right_suffix="_other")
    pairs = pairs.drop_null()
    first, second = (pairs[name].to_numpy() < 1 for name in ("rank", "rank_other"))
    table = [(first & second), (first & ~second), (~first & second), ~(first | second)]
    counts = [int(np.count_nonzero(cell)) for cell in table]
    points = 100 * (counts[1] - counts[2]) / max(len(pairs), 1)
    return points, [100 * end for end in paired_interval(*counts)]
