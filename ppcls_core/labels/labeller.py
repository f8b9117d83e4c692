"""Views of images to rows of a label shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.manifest import REJECTED
from ppcls_core.data.decode import BadImage
from ppcls_core.data.loader import prefetch
from ppcls_core.data.views import Views
from ppcls_core.labels.shard import Header, label_table
from ppcls_core.labels.teacher import Predict

Item = tuple[str, Path, int]  # id and file of an image, number of its view
Batch = tuple[list[Item], np.ndarray, list[tuple[str, str, str]]]


def batches(items: Sequence[Item], views: Views, batch_size: int, workers: int) -> Iterator[Batch]:
    """(the n readable items, uint8 [n, 3, S, S], rows of REJECTED) of each batch, n >= 0."""

    def load(item: Item) -> np.ndarray | BadImage:
        image_id, path, number = item
        try:
            return views.pixels(path, image_id, number)
        except BadImage as error:
            return error

    chunks = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    for chunk, loaded in zip(chunks, prefetch(chunks, load, workers), strict=True):
        pairs = list(zip(chunk, loaded, strict=True))
        good = [(item, x) for item, x in pairs if not isinstance(x, BadImage)]
        bad = [(item[0], x.reason, x.detail) for item, x in pairs if isinstance(x, BadImage)]
        yield [item for item, _ in good], np.array([x for _, x in good], np.uint8), bad


def label(
    loaded: Iterator[Batch],
    views: Views,
    predict: Predict,
    header: Header,
    advance: Callable[[], None],
) -> tuple[pa.Table, pa.Table]:
    """(`label_table`, REJECTED rows) of the batches `loaded`; `advance` is called once an item."""
    tables = [label_table([], np.empty((0, header.num_classes), np.float32), header)]
    rejected: list[tuple[str, str, str]] = []
    for good, pixels, bad in loaded:
        rejected += bad
        if good:
            ids, numbers = [item[0] for item in good], [item[2] for item in good]
            seeds = [views.seed(image_id, n) for image_id, n in zip(ids, numbers, strict=True)]
            tables.append(label_table(ids, predict(pixels), header, (numbers, seeds)))
        for _ in range(len(good) + len(bad)):
            advance()
    columns = [pa.array([row[i] for row in rejected], pa.string()) for i in range(len(REJECTED))]
    return pa.concat_tables(tables).combine_chunks(), pa.table(columns, schema=REJECTED)
