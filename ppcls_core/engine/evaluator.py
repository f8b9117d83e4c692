"""Exact top-1 and top-5 of a model on a labelled image set, as a whole and of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import ImageSet, Rejections, read_batches
from ppcls_core.data.transforms import Preprocess, normalize
from ppcls_core.engine.distributed import world
from ppcls_core.models.networks.layers import eval_mode
from ppcls_core.runtime.monitor import Interrupted, Monitor

BATCH_SIZE = 64


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What a model gets right; an image that cannot be read is left out and counted by reason.

    `by_class` is int64 [3, C]: of each class the images and the hits among the best 1 and 5 logits.
    """

    by_class: np.ndarray
    rejected: dict[str, int]

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


def predict_logits(model: paddle.nn.Layer, pixels: np.ndarray) -> np.ndarray:
    """float32 [N, C] logits of uint8 [N, 3, S, S] pixels."""
    with paddle.no_grad():
        return model(normalize(pixels)).numpy()


def evaluate(
    model: paddle.nn.Layer,
    images: ImageSet,
    preprocess: Preprocess,
    workers: int,
    monitor: Monitor,
) -> Accuracy:
    """Accuracy of `model` in eval mode under `preprocess`.

    Each layer's mode is restored. Of P processes the r-th takes the images r, r + P, r + 2 P ...,
    none twice; all return the same.

    Raises:
        Interrupted: a stop was requested.
    """
    by_class, rejected, rank = np.zeros((3, 0), np.int64), Rejections(), world().rank
    mine = range(rank, len(images), world().size)

    def read(row: int) -> np.ndarray:
        return preprocess(read_image(images.paths[row]))

    with eval_mode(model):
        for rows, pixels, bad in read_batches(mine, read, BATCH_SIZE, workers):
            for row, error in bad:
                rejected.add(images.ids[row], error)
            if len(rows):
                logits = predict_logits(model, pixels)
                by_class = _sum([by_class, count_hits(logits, images.labels[rows])])
            if monitor.stop_requested:
                break
    if any(world().any(monitor.stop_requested)):
        raise Interrupted
    every = Rejections(world().union(rejected.reasons))
    return Accuracy(_sum(world().gather(by_class)), every.counts())


def count_hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [3, C]: of each class the images, those hit by the best logit, and by the best five.

    Ties and NaN count against the model.
    """
    target = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    rank = (~(logits < target)).sum(1) - 1
    hits = (labels, labels[rank < 1], labels[rank < 5])
    return np.array([np.bincount(hit, minlength=logits.shape[1]) for hit in hits])


def _sum(counts: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays [3, C]; C is 0 where no image has been seen."""
    total = np.zeros((3, max(part.shape[1] for part in counts)), np.int64)
    for part in counts:
        total[:, : part.shape[1]] += part
    return total
