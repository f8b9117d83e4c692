"""Views of images to rows of a label shard, the record of how that was done, and its repetition.

The record lies beside the shards. From it `check_labels` makes a sample of the labels again and
says whether the teacher still gives them.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.base.config import Config, UserError, parse
from data_catalog.base.files import digest_of, read_json, sha256_file, write_json
from data_catalog.images.columns import REJECTED, read_images
from ppcls_core.data.augment import VERSION
from ppcls_core.data.views import Views
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels.shard import Header, Origin, label_table, open_shards
from ppcls_core.labels.store import LabelStore
from ppcls_core.labels.teacher import (
    Agreement,
    Batches,
    Digest,
    Engine,
    Item,
    Teacher,
    agreement,
)
from ppcls_core.runtime.gpu import exact_float32
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.shards import Advance

FILE = "source.json"


def label(
    answered: Batches, views: Views, header: Header, advance: Advance
) -> tuple[pa.Table, pa.Table]:
    """(`label_table`, REJECTED rows) of batches with logits; each is told to `advance`."""

    def rows(good: Sequence[Item], logits: np.ndarray) -> pa.Table:
        ids, numbers = [item[0] for item in good], [item[2] for item in good]
        seeds = [views.seed(image_id, n) for image_id, n in zip(ids, numbers, strict=True)]
        return label_table(ids, logits, header, (numbers, seeds))

    empty = label_table([], np.empty((0, header.num_classes), np.float32), header)
    return collect(answered, rows, empty, advance)


def collect(
    found: Batches,
    rows: Callable[[Sequence[Item], np.ndarray], pa.Table],
    empty: pa.Table,
    advance: Advance,
) -> tuple[pa.Table, pa.Table]:
    """(`empty` and what `rows` makes of each batch, REJECTED rows of the other items); each batch
    is told to `advance`."""
    tables, rejected = [empty], []
    for good, values, bad in found:
        rejected += [(item[0], error.reason, error.detail) for item, error in bad]
        if good:
            tables.append(rows(good, values))
        advance(len(good) + len(bad))
    columns = [pa.array([row[i] for row in rejected], pa.string()) for i in range(len(REJECTED))]
    return pa.concat_tables(tables).combine_chunks(), pa.table(columns, schema=REJECTED)


class LabelSource(Config):
    """The teacher, the images (a manifest and where its roots lie) and their views."""

    teacher: Teacher
    views: Views
    images: Path
    roots: dict[str, str]

    def origin(self) -> Origin:
        """The fingerprints of what the labels depend on, as it is now."""
        return fingerprints(self.teacher, sha256_file, self.views)


def fingerprints(teacher: Teacher, digest: Digest, views: Views) -> Origin:
    """The origin of labels of `views`; `digest` gives the sha256 of each of the teacher's files."""
    made_by = teacher.identity(digest)
    current = views.model_dump(mode="json") | {"version": VERSION}
    return Origin(digest_of(made_by), digest_of(current))


def write_source(folder: Path, source: LabelSource) -> None:
    """Write `source` beside the shards of `folder`."""
    write_json(folder / FILE, source.model_dump(mode="json"))


def read_source(folder: Path) -> LabelSource:
    """The record of the shards of `folder`. Raises UserError if it is not there, or damaged."""
    data = read_json(folder / FILE) if (folder / FILE).is_file() else None  # a FIFO would wait
    if not isinstance(data, dict):
        raise UserError(
            f"{folder / FILE}: missing or damaged; give the folder that the label stage (or views) "
            "has written"
        )
    return parse(LabelSource, data, str(folder / FILE))


@dataclass(frozen=True)
class Drift:
    """How far the stored labels of `num` views are from the teacher's, a network being run in fp32.

    `largest` is of a log-probability, in nats.
    """

    num: int
    unreadable: int
    agreement: Agreement
    largest: float


@exact_float32()
def check_labels(folder: Path, num: int, workers: int) -> Drift:
    """Label `num` of the views in `folder` again. Raises UserError: the labels are of other
    weights, preprocessing or augmentation code than what is there now; nothing can be compared."""
    source = read_source(folder)
    try:
        origin = source.origin()
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: this file of the teacher is gone; put it back or label again"
        ) from None
    store = LabelStore.open(folder, origin=origin)
    items = _sample(folder, source, num)
    answer, stored, made = source.teacher.answers(Engine(workers=workers), source.views), [], []
    for good, logits, _ in answer(items):
        if good:
            made.append(logits)
            stored.append(store.logprobs([i[0] for i in good], [i[2] for i in good]))
    if not made:
        raise UserError(f"{folder}: none of the {len(items)} images chosen can be read")
    now, before = log_softmax(np.concatenate(made)), np.concatenate(stored)
    largest = float(np.abs(now - before).max())
    return Drift(len(now), len(items) - len(now), agreement(now, before), largest)


def _sample(folder: Path, source: LabelSource, num: int) -> list[Item]:
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
