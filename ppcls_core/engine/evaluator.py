"""Exact top-1 and top-5 of a model on a labelled image set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from ppcls_core.data.loader import ImageSet, Rejections, test_batches
from ppcls_core.data.transforms import Preprocess, normalize
from ppcls_core.models.networks.layers import eval_mode
from ppcls_core.monitor import Monitor, check

BATCH_SIZE = 64


@dataclass(frozen=True)
class Accuracy:
    """Fractions of `num_images` images; an image that cannot be read is left out and counted."""

    top1: float
    top5: float
    num_images: int
    rejected: dict[str, int]


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

    Each layer's mode is restored.

    Raises:
        Interrupted: a stop was requested.
    """
    hits, rejected, seen = np.zeros(2, np.int64), Rejections(), 0
    batches = test_batches(images, range(len(images)), BATCH_SIZE, preprocess, workers)
    with eval_mode(model):
        for rows, pixels, bad in batches:
            for image_id, error in bad.items():
                rejected.add(image_id, error)
            if len(rows):
                hits += count_hits(predict_logits(model, pixels), images.labels[rows])
            seen += len(rows)
            check(monitor)
    top1, top5 = (hits / max(seen, 1)).tolist()
    return Accuracy(top1, top5, seen, rejected.counts())


def count_hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[top-1 hits, top-5 hits]; ties and NaN count against the model."""
    target = np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)
    rank = (~(logits < target)).sum(1) - 1
    return np.array([(rank < 1).sum(), (rank < 5).sum()])
