"""Exact top-1 and top-k of a model on a labelled image set, as a whole and of each class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import paddle

from data_catalog.images.columns import Images
from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import read_batches
from ppcls_core.data.lost import MAX_LOST, REJECTED, Lost, check_lost, counts_of
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.distributed import world
from ppcls_core.models.networks.layers import eval_mode, normalize
from ppcls_core.runtime.monitor import Interrupted, Monitor

BATCH_SIZE = 64
TOPK = 5
Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 3, S, S] pixels to float32 [N, C] logits."""


@dataclass(frozen=True)
class EvalData:
    """Labelled images as models are tested on them, loaded by `workers` threads.

    An evaluation fails when more than the share `max_lost` of the images cannot be read. `topk` is
    how many of the highest logits count for top-k.
    """

    images: Images
    preprocess: Preprocess
    workers: int
    max_lost: float = MAX_LOST
    topk: int = TOPK


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Hits of a model; images that cannot be read are left out and counted by reason.

    `by_class` is int64 [3, C]: of each class the images, those whose class has the highest logit,
    and those whose class is among the highest five, or as many as EvalData.topk says.
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
    def topk(self) -> float:
        """Share of them whose class is among the highest k logits; 0 without images."""
        return int(self.by_class[2].sum()) / max(self.num_images, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images: all that were to be read, those that were, the others by reason."""
        lost = {REJECTED + reason: number for reason, number in self.lost.items()}
        return {"in": self.num_images + sum(lost.values()), "out": self.num_images, **lost}


def predict_logits(model: paddle.nn.Layer, pixels: np.ndarray) -> np.ndarray:
    """float32 [N, C] logits of uint8 [N, 3, S, S] pixels."""
    with paddle.no_grad():
        return model(normalize(pixels, model)).numpy()


def evaluate(model: paddle.nn.Layer, data: EvalData, monitor: Monitor) -> Accuracy:
    """As `evaluate_each`, of `model` in eval mode; afterwards each layer is in its former mode."""
    with eval_mode(model):
        return evaluate_each([partial(predict_logits, model)], data, monitor)[0]


def evaluate_each(
    predictors: Sequence[Predict], data: EvalData, monitor: Monitor
) -> list[Accuracy]:
    """The accuracy of each predictor; every image is read once.

    Of P processes the r-th takes the images r, r + P, r + 2 P ...; all return the same. Raises
    Interrupted: a stop was requested; UserError: no image, or too few, can be read.
    """
    images, labels, lost = data.images, data.images.labels, Lost()
    counts = [np.zeros((3, 0), np.int64) for _ in predictors]

    def read(row: int) -> np.ndarray:
        return data.preprocess(read_image(images.source(row)))

    mine = range(world().rank, len(images), world().size)
    for rows, pixels, bad in read_batches(mine, read, BATCH_SIZE, data.workers):
        lost.update({images.ids[row]: (error.reason, error.detail) for row, error in bad})
        if rows:
            hits = [count_hits(predict(pixels), labels[rows], data.topk) for predict in predictors]
            counts = [_sum([total, new]) for total, new in zip(counts, hits, strict=True)]
        if monitor.stop_requested:
            break  # not raised here: the others must learn of it first
    if any(world().any(monitor.stop_requested)):
        raise Interrupted
    by_reason = counts_of(world().union(lost))
    check_lost("validation", by_reason, len(images), data.max_lost)
    return [Accuracy(_sum(world().gather(own)), by_reason) for own in counts]


def count_hits(logits: np.ndarray, labels: np.ndarray, topk: int = TOPK) -> np.ndarray:
    """`Accuracy.by_class` of float [N, C] logits, integer [N] labels; ties and NaN are misses."""
    target = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    rank = (~(logits < target)).sum(1) - 1  # not >=, which is false for NaN; less itself
    hits = (labels, labels[rank < 1], labels[rank < topk])
    return np.array([np.bincount(hit, minlength=logits.shape[1]) for hit in hits])


def _sum(counts: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays [3, C]; C is 0 where no image has been seen."""
    total = np.zeros((3, max(part.shape[1] for part in counts)), np.int64)
    for part in counts:
        total[:, : part.shape[1]] += part
    return total
