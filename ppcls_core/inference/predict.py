"""Images to classes, whichever engine computes the logits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_core.data.loader import read_batches
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.exported import Logits
from ppcls_core.inference.inputs import Picture
from ppcls_core.inference.softmax import log_softmax

NOT_FINITE = "not_finite"  # a reason beside those of BadImage


@dataclass(frozen=True)
class Guess:
    """A class, and how probable the model finds it."""

    number: int
    name: str
    probability: float


@dataclass(frozen=True)
class Row:
    """An image with its guesses, the best first, or with the reason why there are none."""

    picture: Picture
    guesses: Sequence[Guess] = ()
    reason: str = ""
    detail: str = ""
    pixels: np.ndarray | None = None
    """uint8 [3, S, S], what the model saw."""


@dataclass(frozen=True)
class Classifier:
    """A model ready to be asked."""

    predict: Logits
    preprocess: Preprocess
    classes: tuple[str, ...]
    top_k: int

    def rank(self, logits: np.ndarray) -> list[list[Guess]]:
        """The best classes of each row of float [N, C] logits; see `rank`."""
        return rank(logits, self.classes, self.top_k)


def rank(logits: np.ndarray, classes: tuple[str, ...], top_k: int) -> list[list[Guess]]:
    """The best classes of each row of float [N, C] logits; of equal ones the lower number.

    A row with an infinity or NaN has none.
    """
    good = np.asarray(np.isfinite(logits).all(axis=1))
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top_k].tolist()
    shares = np.exp(log_softmax(np.where(good[:, None], logits, 0)))
    return [
        [Guess(c, classes[c], float(shares[row, c])) for c in best[row]] if good[row] else []
        for row in range(len(logits))
    ]


def classify(
    classifier: Classifier, found: Iterable[Picture], batch_size: int, workers: int
) -> Iterator[list[Row]]:
    """A row for each image, in order, a batch at a time; `workers` threads read ahead."""

    def read(picture: Picture) -> np.ndarray:
        return picture.pixels(classifier.preprocess)

    for good, pixels, bad in read_batches(found, read, batch_size, workers):
        rows = [Row(picture, (), error.reason, error.detail) for picture, error in bad]
        if good:
            ranked = classifier.rank(classifier.predict(pixels))
            rows += [_row(*each) for each in zip(good, ranked, pixels, strict=True)]
        yield sorted(rows, key=lambda row: row.picture.number)


def _row(picture: Picture, guesses: list[Guess], pixels: np.ndarray) -> Row:
    if not guesses:
        return Row(picture, (), NOT_FINITE, "the model's logits are not finite numbers", pixels)
    return Row(picture, guesses, pixels=pixels)
