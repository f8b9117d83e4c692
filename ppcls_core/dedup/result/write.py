"""From the shards of a search to its result: tables, image set, removal list, pairs to look at.

A part of the pool at a time is held; of a search within it, all pairs.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.files import write_table
from data_catalog.images.columns import IDS, REJECTED, Images, write_images
from ppcls_core.dedup.canaries import recall
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import FOUND, PAIRS
from ppcls_core.dedup.match.within import best_first, keep_one_of_each, one_way, same_files
from ppcls_core.dedup.result.gallery import Gallery
from ppcls_core.dedup.result.removal import Evidence, Removed, Searched, removal_to
from ppcls_core.dedup.result.tables import table_to, write_csv
from ppcls_core.dedup.search import KINDS, SHARDS, Search
from ppcls_core.runtime.shards import shard_file, shard_ranges

SCHEMAS = {"pairs": PAIRS, "refused": PAIRS, "rejected": REJECTED, "weak": IDS, "kept": IDS}
Row = dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search: both sides accounted for (`val` None: within the pool), the number of
    pairs, and attack -> [found, planted] of the canaries."""

    pool: Searched
    val: Searched | None
    num_pairs: int
    canaries: dict[str, list[int]]

    @property
    def pool_counts(self) -> dict[str, int]:
        """The pool's numbers by name: in = kept + duplicates + each reason."""
        side = self.pool
        counts = {"in": side.images, "kept": side.used, "duplicates": side.duplicates}
        weak = {"too_few_features": side.too_few_features, "pairs": self.num_pairs}
        return {**counts, **side.rejected, **weak}

    @property
    def val_counts(self) -> dict[str, int]:
        """The validation side's: in = searched for + each reason; empty within a pool."""
        if self.val is None:
            return {}
        counts = {"in": self.val.images, "searched for": self.val.used}
        return {**counts, **self.val.rejected, "too_few_features": self.val.too_few_features}

    @property
    def passed_over(self) -> dict[str, int]:
        """Files of both sides that are no images, by reason."""
        sides = [side.passed_over for side in (self.pool, self.val) if side]
        return dict(sum(map(Counter, sides), Counter()))


def val_account(search: Search, index: ValIndex) -> Searched | None:
    """Where the validation images went; None within a pool."""
    if search.within:
        return None
    reasons = Counter(val_rejected(search, index)["reason"].to_pylist())
    return Searched(
        digest=str(search.digests[1]),
        images=len(search.val) + len(search.val.damaged),
        used=len(index),
        rejected=dict(sorted(reasons.items())),
        too_few_features=len(index.weak),
        passed_over=_passed_over(search.val),
    )


def val_rejected(search: Search, index: ValIndex) -> pa.Table:
    """REJECTED rows of what could not be searched for."""
    return pa.concat_tables([index.rejected, search.val.damaged])


def write_result(search: Search, index: ValIndex, val: Searched | None) -> SearchResult:
    """Write the files of the result to `search.out`, whose shards are whole; `val` accounts for the
    validation side."""
    out, counts, reasons = search.out, Counter[str](), Counter[str]()
    kept, gallery = np.zeros(len(search.pool), bool), Gallery(search.planted)
    parts = _Parts(search, index)
    with ExitStack() as stack:
        add = {
            name: stack.enter_context(table_to(out / f"{name}.parquet", schema))
            for name, schema in SCHEMAS.items()
        }
        for part in parts:
            kept[part.rows.start : part.rows.stop] = part.kept
            for name in SCHEMAS:
                add[name](part.tables[name])
                counts[name] += len(part.tables[name])
            reasons.update(part.tables["rejected"]["reason"].to_pylist())
            gallery.add(part.tables["pairs"].to_pylist(), part.refused_of_others())
        add["rejected"](search.pool.damaged)
        reasons.update(search.pool.damaged["reason"].to_pylist())
    duplicates = reasons.pop("duplicate", 0)
    pool = Searched(
        digest=search.digests[0],
        images=len(search.pool) + len(search.pool.damaged),
        used=counts["kept"],
        duplicates=duplicates,
        rejected=dict(sorted(reasons.items())),
        too_few_features=counts["weak"],
        passed_over=_passed_over(search.pool),
    )
    write_images(out / "kept.arrow", search.pool, kept)
    write_table(out / "gallery.parquet", gallery.table())
    write_csv(out / "pairs.parquet", out / "pairs.csv")
    if not search.within:
        write_table(out / "val_rejected.parquet", val_rejected(search, index))
        write_table(out / "val_weak.parquet", pa.table([index.weak], schema=IDS))
    with removal_to(out / "removed.json", pool, val, search.config) as remove:
        for part in parts:
            remove(_entries(part))
    canaries = recall(pq.read_table(out / "canaries.parquet"))
    return SearchResult(pool, val, counts["pairs"], canaries)


def _passed_over(images: Images) -> dict[str, int]:
    return {k.reason: k.count for k in images.passed_over if k.reason != "tar"}  # read, not lost


@dataclass(frozen=True)
class _Part:
    """The rows `rows` of the pool, judged: `tables` of SCHEMAS, but `pairs` of FOUND; `kept`: bool
    [rows]; `found`: the pairs as the shard has them."""

    rows: range
    tables: dict[str, pa.Table]
    kept: np.ndarray
    found: pa.Table

    def refused_of_others(self) -> list[Row]:
        """The pairs nearly accepted of images that are in no accepted pair."""
        refused = self.tables["refused"]
        return refused.filter(
            pc.invert(_among(refused["pool_id"], self.found["pool_id"]))
        ).to_pylist()


@dataclass(frozen=True)
class _Parts:
    """The parts of the pool, read from the shards each time they are gone through."""

    search: Search
    index: ValIndex

    def __iter__(self) -> Iterator[_Part]:
        within = self._within if self.search.within else None
        for number, rows in enumerate(self._ranges):
            ids = self.search.pool.part(rows.start, rows.stop).table["image_id"]
            shard = {kind: self._read(number, kind) for kind in KINDS}
            found, pairs = shard["pairs"], shard["pairs"]
            if within is None:
                gone = _duplicates(pairs)
            else:
                own = [row for image_id in ids.to_pylist() for row in within[0].get(image_id, ())]
                pairs = pa.Table.from_pylist(own, FOUND)
                gone = within[1].filter(_among(within[1]["image_id"], ids))
            rejected = _in_order(pa.concat_tables([gone, shard["rejected"]]), ids)
            kept = pc.invert(_among(ids, rejected["image_id"]))
            kept_ids = pa.table([ids.filter(kept)], schema=IDS)
            weak = shard["weak"].filter(_among(shard["weak"]["image_id"], kept_ids["image_id"]))
            tables = {"pairs": pairs, "refused": shard["refused"], "rejected": rejected}
            tables |= {"weak": weak, "kept": kept_ids}
            yield _Part(rows, tables, kept.to_numpy(), found)

    @property
    def _ranges(self) -> list[range]:
        return shard_ranges(len(self.search.pool), self.search.shard_size)

    def _read(self, number: int, kind: str) -> pa.Table:
        return pq.read_table(self.search.out / SHARDS / shard_file(number, kind))

    @cached_property
    def _within(self) -> tuple[dict[str, list[Row]], pa.Table]:
        """(pairs of each image with better ones; REJECTED rows of those that go for them, and of
        names too many of one file)."""
        shards = (self._read(number, "pairs") for number in range(len(self._ranges)))
        every = [
            row for shard in shards for row in shard.to_pylist() if row["pool_id"] != row["val_id"]
        ]
        same = same_files(every, self.search.pool)
        every = [row for row in every if row["pool_id"] not in same and row["val_id"] not in same]
        rank = best_first(self.index.images, every)
        pairs = one_way(every, rank)
        of_image: defaultdict[str, list[Row]] = defaultdict(list)
        for row in pairs:
            of_image[row["pool_id"]].append(row)
        reasons = {"duplicate": keep_one_of_each(pairs, rank), "same_file": same}
        gone = [
            {"image_id": image_id, "reason": reason, "detail": other}
            for reason, others in reasons.items()
            for image_id, other in others.items()
        ]
        return dict(of_image), pa.Table.from_pylist(gone, REJECTED)


def _among(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, others.combine_chunks())


def _duplicates(pairs: pa.Table) -> pa.Table:
    """REJECTED rows of the images of `pairs`, in which the best pair of an image comes first."""
    codes = pairs["pool_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = pairs.take(pa.array(np.unique(codes, return_index=True)[1]))
    reason = pa.array(["duplicate"] * len(first), pa.string())
    return pa.table([first["pool_id"], reason, first["val_id"]], schema=REJECTED)


def _in_order(rejected: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """The REJECTED rows in the order of `ids`."""
    places = pc.index_in(rejected["image_id"], ids.combine_chunks())
    return rejected.take(pc.sort_indices(places))


def _entries(part: _Part) -> Iterator[Removed]:
    """The entries of the removal list."""
    rejected = part.tables["rejected"]
    gone = rejected.filter(pc.equal(rejected["reason"], "duplicate"))["image_id"]
    pairs = part.tables["pairs"]
    rows = pairs.filter(_among(pairs["pool_id"], gone)).to_pylist()
    for image_id, group in groupby(rows, lambda row: row["pool_id"]):
        entries = list(group)
        evidence = ({n: row[n] for n in Evidence.model_fields} for row in entries)
        sha256 = entries[0]["pool_sha256"]
        yield Removed(
            image_id=image_id, sha256=sha256, pairs=tuple(Evidence(**e) for e in evidence)
        )
