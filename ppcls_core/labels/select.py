"""Which pool images the student is trained on: the top k of each class, in one pass.

Yalniz et al. 2019, "Billion-scale semi-supervised learning": an image is a candidate for its P best
classes, by the teacher's probability; each class takes the k candidates of highest probability.
Images are scored as in a test (view 0). Equal scores are ordered by image id.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import write_table
from data_catalog.base.words import counted
from ppcls_core.labels.encoding import NUM_TOP
from ppcls_core.labels.shard import Shard, open_shards
from ppcls_core.labels.topk import Candidates, TopK, ranked
from ppcls_core.runtime.monitor import Monitor, check
from ppcls_core.runtime.randomness import seed_of

SELECTION = pa.schema(
    [("image_id", pa.string()), ("class_id", pa.int32()), ("score", pa.float32())]
)
_Scored = tuple[pa.Array, np.ndarray, np.ndarray]  # images: ids, their best classes, the scores
_PIECE = 1 << 20  # rows
_OWN = np.uint32(1 << 31)  # over every score: an image's P best classes go before filling


class SelectConfig(Config):
    """Which pool images the student is trained on."""

    k: int = Field(default=4000, gt=0, lt=2**31)  # images kept per class
    p: int = Field(default=10, gt=0, le=NUM_TOP)  # classes an image may serve
    min_score: float = Field(default=0.0, ge=0, lt=1)  # least probability to be kept
    policy: Literal["best", "random", "none"] = "best"
    """`random`, a control: as many images as `best` would take, whichever, each for its best class;
    all that have the least score are equally likely. `none`, another: the labelled images alone."""
    seed: int = 0  # of `random`
    fill: bool = False
    """A class with fewer than k candidates takes more images, the best first, for which it is among
    the 16 best classes, though not among the P best."""


@dataclass(frozen=True)
class Selection:
    """Selected images: `table` has SELECTION's columns, by class, best first."""

    table: pa.Table
    num_offered: int  # images
    num_chosen: int  # images, each counted once
    per_class: np.ndarray  # int64 [C]

    def described(self, config: SelectConfig) -> str:
        """A sentence for users."""
        chosen = f"{self.num_chosen:,} of {self.num_offered:,} images chosen"
        if config.policy == "random":
            return f"{chosen} at random"
        unfilled = int((self.per_class < config.k).sum())
        return (
            f"{chosen}, for {counted(len(self.table), 'place')} in "
            f"{counted(len(self.per_class), 'class')}; "
            f"{counted(unfilled, 'class has', 'classes have')} fewer than {config.k:,}"
        )

    @staticmethod
    def nothing(num_offered: int, num_classes: int) -> Selection:
        """No image."""
        return Selection(SELECTION.empty_table(), num_offered, 0, np.zeros(num_classes, np.int64))


def select(shards: Sequence[Shard], config: SelectConfig, monitor: Monitor) -> Selection:
    """Select among all images of `shards`, of which there is at least one. Raises UserError: a
    damaged shard, fewer classes kept there than `config.p`, or an image that is labelled twice.
    Interrupted: a stop was requested."""
    num_top, num_classes = shards[0].header.num_top, shards[0].header.num_classes
    if num_top < min(config.p, num_classes):
        raise UserError(
            f"p is {config.p}, but {shards[0].path} keeps only the {num_top} best classes of an "
            f"image: lower p to {num_top} or label with more"
        )
    best, num_offered = TopK(num_classes, config.k), 0
    for scored in _scored(shards, monitor):
        num_offered += len(scored[0])
        best.add(_candidates(scored, config))
    found = best.result()
    num_chosen = found.images.num_rows if found else 0
    if not found or not num_chosen or config.policy == "none":
        return Selection.nothing(num_offered, num_classes)
    if config.policy == "random":
        del best, found
        table = _drawn(shards, config, num_chosen, monitor)
    else:
        table = _in_order(found)
    classes = table["class_id"].to_numpy()
    return Selection(table, num_offered, num_chosen, np.bincount(classes, minlength=num_classes))


def select_store(folder: Path, config: SelectConfig, out: Path, monitor: Monitor) -> Selection:
    """Select from the shards in `folder` into the Parquet file `out`, which is whole or not there.
    Raises UserError: as `select`; no shards in `folder`, or `out` is a folder."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file")
    shards = open_shards(folder)
    if out.resolve() in [shard.path.resolve() for shard in shards]:
        raise UserError(f"{out}: is one of the shards; give another name")
    selection = select(shards, config, monitor)
    if not selection.num_offered and any(shard.metadata.num_rows for shard in shards):
        raise UserError(
            f"{folder}: holds augmented views alone, of which nothing is selected; give the folder "
            "that the label stage has written"
        )
    write_table(out, selection.table)
    return selection


def _scored(shards: Sequence[Shard], monitor: Monitor) -> Iterator[_Scored]:
    """The images of view 0, thousands at a time: large_string [N] ids, int [N, T] best classes and
    float32 [N, T] scores of these."""
    for number, shard in enumerate(shards):
        for batch in shard.batches(["image_id", "view", "top_class", "top_logprob"]):
            check(monitor)
            batch = batch.filter(pc.equal(batch["view"], 0))
            classes, logprobs = (
                batch[name].flatten().to_numpy().reshape(-1, shard.header.num_top)
                for name in ("top_class", "top_logprob")
            )
            if len(classes) and int(classes.max()) >= shard.header.num_classes:
                raise UserError(f"{shard.path}: damaged; run the label stage again")
            ids = batch["image_id"].cast(pa.large_string())
            # In float64, whose exp rounds to the same float32 on every machine.
            scores = np.exp(logprobs.astype(np.float64)).astype(np.float32)
            yield ids, classes, scores
        monitor.progress(number + 1, len(shards), "shards")


def _candidates(scored: _Scored, config: SelectConfig) -> Candidates:
    """Each image for its P best classes, or with `fill` for all that are known."""
    ids, classes, every = scored
    scores = every if config.fill else every[:, : config.p]
    priorities = scores.view(np.uint32).copy()  # a score >= 0 is ordered as its bits are
    priorities[:, : config.p] |= _OWN
    rows, columns = np.nonzero(scores >= config.min_score)
    return Candidates(
        pa.table({"image_id": ids}),
        rows.astype(np.int32),
        classes[rows, columns].astype(np.int32),
        priorities[rows, columns],
    )


def _drawn(shards: Sequence[Shard], config: SelectConfig, num: int, monitor: Monitor) -> pa.Table:
    """SELECTION rows of `num` images, those of the highest hash."""
    best = TopK(1, num)
    for every, classes, scores in _scored(shards, monitor):
        good = pa.array(scores[:, 0] >= config.min_score)
        images = pa.table([every, classes[:, 0], scores[:, 0]], SELECTION.names).filter(good)
        ids = images["image_id"].to_pylist()
        draws = np.fromiter((seed_of(config.seed, i) >> 31 for i in ids), np.uint32, len(ids))
        rows = np.arange(len(ids), dtype=np.int32)
        best.add(Candidates(images, rows, np.zeros_like(rows), draws))
    found = best.result()
    assert found is not None
    classes, scores = (found.images[name].to_numpy() for name in SELECTION.names[1:])
    rows = np.arange(len(classes), dtype=np.int32)
    return _in_order(Candidates(found.images, rows, classes, scores.view(np.uint32)))


def _in_order(found: Candidates) -> pa.Table:
    """SELECTION rows by class, best first, equal ones by id."""
    ids = found.images["image_id"]
    _refuse_repeated(ids)
    scores = (found.priorities & ~_OWN).view(np.float32)
    keys = (found.classes.astype(np.uint64) << np.uint64(32)) | ~scores.view(np.uint32)
    order = np.argsort(keys)
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    by_id = ranked(keys[tied], ids.take(pa.array(found.rows[order[tied]])))
    order[tied] = order[tied[by_id]]
    # By pieces: a string column holds at most 2 GiB in one.
    pieces = (order[first : first + _PIECE] for first in range(0, len(order), _PIECE))
    tables = (
        pa.table(
            [ids.take(pa.array(found.rows[piece])), found.classes[piece], scores[piece]],
            SELECTION.names,
        ).cast(SELECTION)
        for piece in pieces
    )
    return pa.concat_tables([SELECTION.empty_table(), *tables])


def _refuse_repeated(ids: pa.ChunkedArray) -> None:
    counted = pc.value_counts(ids)
    again = pc.index(pc.greater(counted.field("counts"), 1), True).as_py()
    if again >= 0:
        raise UserError(
            f"image {counted.field('values')[again]} is labelled twice; delete the labels and run "
            "the label stage again"
        )
