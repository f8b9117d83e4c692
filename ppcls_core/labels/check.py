"""Are stored labels still what the teacher says? A sample of them is made again and compared."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.images.columns import read_images
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels.labeller import Item, batches
from ppcls_core.labels.shard import open_shards
from ppcls_core.labels.source import Source, read_source
from ppcls_core.labels.store import LabelStore
from ppcls_core.labels.teacher import Agreement, agreement
from ppcls_core.runtime.randomness import seed_of

BATCH_SIZE = 16


@dataclass(frozen=True)
class Drift:
    """How far the stored labels of `num` views are from the teacher's, run in fp32 by the network.

    `largest` is of a log-probability, in nats.
    """

    num: int
    unreadable: int
    agreement: Agreement
    largest: float


def check_labels(folder: Path, num: int, workers: int) -> Drift:
    """Label `num` of the views in `folder` again.

    Raises:
        UserError: the labels are of other weights, preprocessing or augmentation code than what is
            there now; nothing can be compared.
    """
    source = read_source(folder)
    if not source.teacher.weights.is_file():
        raise UserError(
            f"{source.teacher.weights}: the weights are gone; put them back or label again"
        )
    store = LabelStore.open(folder, source.origin())
    items = _sample(folder, source, num)
    network, stored, made = source.teacher.network(), [], []
    for good, pixels, _ in batches(items, source.views, BATCH_SIZE, workers):
        if good:
            made.append(predict_logits(network, pixels))
            stored.append(store.logprobs([i[0] for i in good], [i[2] for i in good]))
    if not made:
        raise UserError(f"{folder}: none of the {len(items)} images chosen can be read")
    now, before = log_softmax(np.concatenate(made)), np.concatenate(stored)
    largest = float(np.abs(now - before).max())
    return Drift(len(now), len(items) - len(now), agreement(now, before), largest)


def _sample(folder: Path, source: Source, num: int) -> list[Item]:
    """The views of the `num` lowest hashes; one batch of rows at a time is held."""
    rows = (
        (seed_of(image_id, view), image_id, view)
        for shard in open_shards(folder)
        for batch in shard.batches(["image_id", "view"])
        for image_id, view in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    chosen = heapq.nsmallest(num, rows)
    places = read_images(source.images, source.roots).find(image_id for _, image_id, _ in chosen)
    unknown = [image_id for _, image_id, _ in chosen if image_id not in places]
    if unknown:
        raise UserError(
            f"{source.images}: does not have image {unknown[0]}, whose label is in {folder}; the "
            "manifest is another than that which was labelled"
        )
    return [(image_id, places[image_id], view) for _, image_id, view in chosen]
