"""Exact top-1 and top-5 of a model on a labelled image set, as a whole and of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import paddle

from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import read_batches
from ppcls_core.data.lost import Lost, check_lost, counts_of
from ppcls_core.data.transforms import normalize
from ppcls_core.engine.accuracy import Accuracy, EvalData, count_hits
from ppcls_core.engine.distributed import world
from ppcls_core.models.networks.layers import eval_mode
from ppcls_core.runtime.monitor import Interrupted, Monitor

BATCH_SIZE = 64
Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 3, S, S] pixels to float32 [N, C] logits."""


def predict_logits(model: paddle.nn.Layer, pixels: np.ndarray) -> np.ndarray:
    """float32 [N, C] logits of uint8 [N, 3, S, S] pixels."""
    with paddle.no_grad():
        return model(normalize(pixels)).numpy()


def evaluate(model: paddle.nn.Layer, data: EvalData, monitor: Monitor) -> Accuracy:
    """Accuracy of `model` in eval mode; afterwards each layer is in the mode that it was in.

    Raises:
        Interrupted, UserError: as `evaluate_each`.
    """
    with eval_mode(model):
        return evaluate_each([partial(predict_logits, model)], data, monitor)[0]


def evaluate_each(
    predictors: Sequence[Predict], data: EvalData, monitor: Monitor
) -> list[Accuracy]:
    """The accuracy of each predictor; every image is read once.

    Of P processes the r-th takes the images r, r + P, r + 2 P ...; all return the same.

    Raises:
        Interrupted: a stop was requested.
        UserError: no image, or too few, can be read.
    """
    images, labels, lost = data.images, data.images.labels, Lost()
    counts = [np.zeros((3, 0), np.int64) for _ in predictors]

    def read(row: int) -> np.ndarray:
        return data.preprocess(read_image(images.source(row)))

    mine = range(world().rank, len(images), world().size)
    for rows, pixels, bad in read_batches(mine, read, BATCH_SIZE, data.workers):
        lost.update({images.ids[row]: (error.reason, error.detail) for row, error in bad})
        if rows:
            hits = [count_hits(predict(pixels), labels[rows]) for predict in predictors]
            counts = [_sum([total, new]) for total, new in zip(counts, hits, strict=True)]
        if monitor.stop_requested:
            break
    if any(world().any(monitor.stop_requested)):
        raise Interrupted
    by_reason = counts_of(world().union(lost))
    check_lost("validation", by_reason, len(images), data.max_lost)
    return [Accuracy(_sum(world().gather(own)), by_reason) for own in counts]


def _sum(counts: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays [3, C]; C is 0 where no image has been seen."""
    total = np.zeros((3, max(part.shape[1] for part in counts)), np.int64)
    for part in counts:
        total[:, : part.shape[1]] += part
    return total
