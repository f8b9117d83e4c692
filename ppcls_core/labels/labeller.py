"""Views of images to rows of a label shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.images.manifest import REJECTED
from ppcls_core.data.decode import BadImage
from ppcls_core.data.loader import read_batches
from ppcls_core.data.views import Views
from ppcls_core.labels.shard import Header, label_table
from ppcls_core.labels.teacher import Predict

Item = tuple[str, Path, int]  # id and file of an image, number of its view
Batches = Iterator[tuple[list[Item], np.ndarray, list[tuple[Item, BadImage]]]]


def batches(items: Sequence[Item], views: Views, batch_size: int, workers: int) -> Batches:
    """The views `items`, loaded by `workers` threads."""

    def read(item: Item) -> np.ndarray:
        image_id, path, number = item
        return views.pixels(path, image_id, number)

    return read_batches(items, read, batch_size, workers)


def label(
    loaded: Batches,
    views: Views,
    predict: Predict,
    header: Header,
    advance: Callable[[], None],
) -> tuple[pa.Table, pa.Table]:
    """(`label_table`, REJECTED rows) of the batches `loaded`; `advance` is called once an item."""
    tables = [label_table([], np.empty((0, header.num_classes), np.float32), header)]
    rejected: list[tuple[str, str, str]] = []
    for good, pixels, bad in loaded:
        rejected += [(item[0], error.reason, error.detail) for item, error in bad]
        if good:
            ids, numbers = [item[0] for item in good], [item[2] for item in good]
            seeds = [views.seed(image_id, n) for image_id, n in zip(ids, numbers, strict=True)]
            tables.append(label_table(ids, predict(pixels), header, (numbers, seeds)))
        for _ in range(len(good) + len(bad)):
            advance()
    columns = [pa.array([row[i] for row in rejected], pa.string()) for i in range(len(REJECTED))]
    return pa.concat_tables(tables).combine_chunks(), pa.table(columns, schema=REJECTED)
