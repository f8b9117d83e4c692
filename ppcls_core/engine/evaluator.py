"""Exact top-1 and top-k of a model on a labelled image set, as a whole and of each class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import paddle
import pyarrow as pa

from data_catalog.images.columns import Images
from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import read_batches
from ppcls_core.data.lost import MAX_LOST, Lost, check_lost, counts_of, rejected_counts
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.distributed import world
from ppcls_core.models.networks.layers import eval_mode, normalize
from ppcls_core.runtime.monitor import Interrupted, Monitor

BATCH_SIZE = 64
TOPK = 5
Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 3, S, S] pixels to float32 [N, C] logits."""
Record = Callable[[Sequence[int], Sequence[np.ndarray]], None]
"""Is given the rows of a batch and the logits of each predictor."""
PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("probability", pa.float32()),
        ("rank", pa.int32()),
    ]
)
"""A row an image: its class, the predicted one with the probability that the model gives it, and
the rank of the image's class among the model's answers, 0 the best; ties and NaN rank it last."""


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
        lost = rejected_counts(self.lost)
        return {"in": self.num_images + sum(lost.values()), "out": self.num_images, **lost}


def predict_logits(model: paddle.nn.Layer, pixels: np.ndarray) -> np.ndarray:
    """float32 [N, C] logits of uint8 [N, 3, S, S] pixels."""
    with paddle.no_grad():
        return model(normalize(pixels, model)).numpy()


def evaluate(
    model: paddle.nn.Layer, data: EvalData, monitor: Monitor, record: Record | None = None
) -> Accuracy:
    """As `evaluate_each`, of `model` in eval mode; afterwards each layer is in its former mode."""
    with eval_mode(model):
        return evaluate_each([partial(predict_logits, model)], data, monitor, record)[0]


def evaluate_each(
    predictors: Sequence[Predict], data: EvalData, monitor: Monitor, record: Record | None = None
) -> list[Accuracy]:
    """The accuracy of each predictor; every image is read once.

    Of P processes the r-th takes the images r, r + P, r + 2 P ...; all return the same, and
    `record` learns of its own images. Raises Interrupted: a stop was requested; UserError: no
    image, or too few, can be read.
    """
    images, labels, lost = data.images, data.images.labels, Lost()
    counts = [np.zeros((3, 0), np.int64) for _ in predictors]

    def read(row: int) -> np.ndarray:
        return data.preprocess(read_image(images.source(row)))

    mine = range(world().rank, len(images), world().size)
    for rows, pixels, bad in read_batches(mine, read, BATCH_SIZE, data.workers):
        lost.update({images.ids[row]: (error.reason, error.detail) for row, error in bad})
        if rows:
            logits = [predict(pixels) for predict in predictors]
            hits = [count_hits(answer, labels[rows], data.topk) for answer in logits]
            if record:
                record(rows, logits)
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
    return _by_class(labels, ranks_of(logits, labels), logits.shape[1], topk)


def ranks_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [N]: how many other classes have no lower logit than the label's; ties and NaN count."""
    target = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    return (~(logits < target)).sum(1) - 1  # not >=, which is false for NaN; less itself


def _by_class(labels: np.ndarray, ranks: np.ndarray, num_classes: int, topk: int) -> np.ndarray:
    hits = (labels, labels[ranks < 1], labels[ranks < topk])
    return np.array([np.bincount(hit, minlength=num_classes) for hit in hits])


def predictions(ids: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> pa.Table:
    """Rows of PREDICTIONS; `logits` float [N, C] may be log-probabilities."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    likeliest = (shares / shares.sum(1, keepdims=True)).max(1)
    columns = [ids, labels, logits.argmax(1), likeliest, ranks_of(logits, labels)]
    return pa.table([pa.array(column) for column in columns], PREDICTIONS.names).cast(PREDICTIONS)


def accuracy_of(found: pa.Table, num_classes: int, lost: dict[str, int]) -> Accuracy:
    """The accuracy that rows of PREDICTIONS add up to."""
    labels, ranks = (found[name].to_numpy() for name in ("label", "rank"))
    return Accuracy(_by_class(labels, ranks, num_classes, TOPK), lost)


def _sum(counts: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays [3, C]; C is 0 where no image has been seen."""
    total = np.zeros((3, max(part.shape[1] for part in counts)), np.int64)
    for part in counts:
        total[:, : part.shape[1]] += part
    return total
