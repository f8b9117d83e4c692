"""What an evaluation is of and what it gives; without Paddle, which `evaluator` needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_catalog.images.columns import Images
from ppcls_core.data.lost import MAX_LOST, REJECTED
from ppcls_core.data.transforms import Preprocess


@dataclass(frozen=True)
class EvalData:
    """Labelled images as models are tested on them, loaded by `workers` threads.

    An evaluation fails when more than the share `max_lost` of the images cannot be read.
    """

    images: Images
    preprocess: Preprocess
    workers: int
    max_lost: float = MAX_LOST


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Hits of a model; images that cannot be read are left out and counted by reason.

    `by_class` is int64 [3, C]: of each class the images, those whose class has the highest logit,
    and those whose class is among the highest five.
    """

    by_class: np.ndarray
    lost: dict[str, int]

    @property
    def num_images(self) -> int:
        """Number of images that were read."""
        return int(self.by_class[0].sum())

    @property
    def top1(self) -> float:
        """Share of them whose class has the highest logit; 0 without images."""
        return int(self.by_class[1].sum()) / max(self.num_images, 1)

    @property
    def top5(self) -> float:
        """Share of them whose class is among the highest five logits; 0 without images."""
        return int(self.by_class[2].sum()) / max(self.num_images, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images: all that were to be read, those that were, the others by reason."""
        lost = {REJECTED + reason: number for reason, number in self.lost.items()}
        return {"in": self.num_images + sum(lost.values()), "out": self.num_images, **lost}


def count_hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`Accuracy.by_class` of float [N, C] logits and integer [N] labels.

    Ties and NaN count against the model.
    """
    target = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    rank = (~(logits < target)).sum(1) - 1
    hits = (labels, labels[rank < 1], labels[rank < 5])
    return np.array([np.bincount(hit, minlength=logits.shape[1]) for hit in hits])
