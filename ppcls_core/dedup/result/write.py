"""From the shards of a search to its result: tables, image set, removal list, pairs to look at.

A part of the pool at a time is held; of a search within it, the table of all pairs.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.files import atomic_path, write_table
from data_catalog.images.columns import IDS, REJECTED, Images, write_images
from ppcls_core.dedup.canaries import recall
from ppcls_core.dedup.decisions import Decisions
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import FOUND, PAIRS
from ppcls_core.dedup.match.within import judge_within
from ppcls_core.dedup.result.gallery import Gallery
from ppcls_core.dedup.result.removal import (
    Evidence,
    Removed,
    Reviewed,
    Searched,
    write_removal,
)
from ppcls_core.dedup.search import KINDS, LIST, SHARDS, Search
from ppcls_core.runtime.shards import read_shards, shard_file, shard_ranges
from ppcls_core.runtime.terminal import escaped

SCHEMAS = {"pairs": PAIRS, "refused": PAIRS, "rejected": REJECTED, "weak": IDS, "kept": IDS}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet runs a cell that begins so
TRANSFORM = [f"transform_{row}{column}" for row in range(3) for column in range(3)]


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search: both sides accounted for (`val` None: within the pool), the number of
    pairs, attack -> [found, planted] of the canaries, and what became of a person's decisions."""

    pool: Searched
    val: Searched | None
    num_pairs: int
    canaries: dict[str, list[int]]
    reviewed: Reviewed

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

    @property
    def decision_counts(self) -> dict[str, int]:
        """A person's decisions on these images by what became of them, empty without any."""
        done = self.reviewed
        counts = {"accepted": done.accepted, "refused": len(done.refused), "not found": done.absent}
        return counts if any(counts.values()) else {}


def val_account(search: Search, index: ValIndex) -> Searched | None:
    """Where the validation images went; None within a pool."""
    if search.within:
        return None
    reasons = Counter[str](_val_rejected(search, index)["reason"].to_pylist())
    return _account(search.val, search.digests[1], (len(index), len(index.weak)), reasons)


def _account(
    images: Images, digest: str | None, used: tuple[int, int], reasons: Counter[str]
) -> Searched:
    """One side: `used` are the images that were, and those among them with too few features;
    `reasons` count the others."""
    return Searched(
        digest=str(digest),
        images=len(images) + len(images.damaged),
        used=used[0],
        duplicates=reasons.pop("duplicate", 0),
        rejected=dict(sorted(reasons.items())),
        too_few_features=used[1],
        # A tar is read, not lost.
        passed_over={k.reason: k.count for k in images.passed_over if k.reason != "tar"},
    )


def _val_rejected(search: Search, index: ValIndex) -> pa.Table:
    """REJECTED rows of what could not be searched for."""
    return pa.concat_tables([index.rejected, search.val.damaged])


def write_result(search: Search, index: ValIndex, val: Searched | None) -> SearchResult:
    """Write the files of the result to `search.out`, whose shards are whole; `val` accounts for the
    validation side."""
    out, pool = search.out, search.pool
    within = None
    if search.within:
        num_shards = len(shard_ranges(len(pool), search.shard_size))
        tables = (read_shards(out / SHARDS, n, num_shards, FOUND) for n in ("pairs", "refused"))
        within = judge_within(search.decisions.apply(*tables)[0], index.images, pool)
    met = set[tuple[str, str]]()
    counts, reasons = Counter[str](), Counter[str](pool.damaged["reason"].to_pylist())
    kept, gallery = np.zeros(len(pool), bool), Gallery(search.planted)
    with ExitStack() as stack:
        files = {
            n: stack.enter_context(_parquet(out / f"{n}.parquet", s)) for n, s in SCHEMAS.items()
        }
        for part in _parts(search, within):
            kept[part.rows.start : part.rows.stop] = part.kept
            for name, table in part.tables.items():
                _append(files[name], table.select(SCHEMAS[name].names))
                counts[name] += len(table)
            reasons.update(part.tables["rejected"]["reason"].to_pylist())
            gallery.add(part.tables["pairs"].to_pylist(), part.unpaired.to_pylist())
            met |= part.met
        _append(files["rejected"], pool.damaged)
    account = _account(pool, search.digests[0], (counts["kept"], counts["weak"]), reasons)
    write_images(out / "kept.arrow", pool, kept)
    write_table(out / "gallery.parquet", gallery.table())
    _write_texts(out)
    if not search.within:
        write_table(out / "val_rejected.parquet", _val_rejected(search, index))
        write_table(out / "val_weak.parquet", pa.table([index.weak], schema=IDS))
    reviewed = _reviewed(search.decisions, met)
    removed = (entry for part in _parts(search, within) for entry in _removed(part.tables))
    write_removal(out / LIST, (account, val), search.config, reviewed, removed)
    canaries = recall(pq.read_table(out / "canaries.parquet"))
    return SearchResult(account, val, counts["pairs"], canaries, reviewed)


def _reviewed(decisions: Decisions, met: set[tuple[str, str]]) -> Reviewed:
    """What became of the decisions, of which those with the keys `met` are on pairs found."""
    found = [decisions.by_pair[key] for key in sorted(met)]
    refused = tuple(each for each in found if each.verdict == "refused")
    absent = len(decisions) - len(met)
    return Reviewed(accepted=len(found) - len(refused), refused=refused, absent=absent)


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Writes the Parquet file `path`, which is there when the block ends well."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        yield file


def _append(file: pq.ParquetWriter, table: pa.Table) -> None:
    if table.num_rows:  # no row group without rows
        file.write_table(table)


def _write_texts(out: Path) -> None:
    """Pairs, the transform as nine columns, and what was rejected as CSV; what is kept as a list.

    An id that a spreadsheet would take for a formula gets `./` before it: the same relative path.
    """
    names = [n for n in PAIRS.names if n != "transform" and not n.endswith("_sha256")]
    columns = {"pairs": [*names, *TRANSFORM], "rejected": REJECTED.names}
    for kind, header in columns.items():
        with _text_file(out / f"{kind}.csv") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
            writer.writerow(header)
            for row in _rows(out / f"{kind}.parquet"):
                row |= zip(TRANSFORM, row.pop("transform", ()), strict=False)
                writer.writerow(_cell(row[name]) for name in header)
    with _text_file(out / "kept.txt") as file:
        ids = (row["image_id"] for row in _rows(out / "kept.parquet"))
        file.writelines(escaped(image_id).replace("\n", "\\n") + "\n" for image_id in ids)


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a part of which is held at a time."""
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            yield from batch.to_pylist()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")  # what float32 knows
    return f"./{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


@dataclass(frozen=True)
class _Part:
    """The rows `rows` of the pool, judged: `tables` of SCHEMAS; `kept`: bool [rows]; `unpaired`:
    pairs nearly accepted (PAIRS) of images that are in no accepted one; `met`: keys of the
    decisions on pairs of the rows."""

    rows: range
    tables: dict[str, pa.Table]
    kept: np.ndarray
    unpaired: pa.Table
    met: set[tuple[str, str]]


def _parts(search: Search, within: tuple[pa.Table, pa.Table] | None) -> Iterator[_Part]:
    """The parts of the pool, read from the shards; `within`: `judge_within` of such a search."""
    for number, rows in enumerate(shard_ranges(len(search.pool), search.shard_size)):
        ids = search.pool.part(rows.start, rows.stop).table["image_id"]
        paths = {kind: search.out / SHARDS / shard_file(number, kind) for kind in KINDS}
        shard = {kind: pq.read_table(path) for kind, path in paths.items()}
        sides = shard["pairs"], shard["refused"]
        met = search.decisions.met(*sides)
        shard["pairs"], shard["refused"] = (
            _in_order(table, ids) for table in search.decisions.apply(*sides)
        )
        unpaired = shard["refused"].filter(
            pc.invert(_among(shard["refused"]["pool_id"], shard["pairs"]["pool_id"]))
        )
        if within is None:
            duplicates = _duplicates(shard["pairs"])
        else:
            shard["pairs"], duplicates = (
                _in_order(t.filter(_among(t[0], ids)), ids) for t in within
            )
        rejected = _in_order(pa.concat_tables([duplicates, shard["rejected"]]), ids)
        kept = pc.invert(_among(ids, rejected["image_id"]))
        kept_ids = pa.table([ids.filter(kept)], schema=IDS)
        weak = shard["weak"].filter(_among(shard["weak"]["image_id"], kept_ids["image_id"]))
        tables = shard | {"rejected": rejected, "weak": weak, "kept": kept_ids}
        yield _Part(rows, tables, kept.to_numpy(), unpaired, met)


def _among(values: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, others.combine_chunks())


def _duplicates(pairs: pa.Table) -> pa.Table:
    """REJECTED rows of the images of `pairs`, in which the best pair of an image comes first."""
    best = pairs.group_by("pool_id", use_threads=False).aggregate([("val_id", "first")])
    columns = (best["pool_id"], ["duplicate"] * len(best), best["val_id_first"])
    return pa.table(list(columns), schema=REJECTED)


def _in_order(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """The rows, whose first column is among `ids`, in the order of `ids`; stable."""
    return table.take(pc.sort_indices(pc.index_in(table[0], ids.combine_chunks())))


def _removed(tables: dict[str, pa.Table]) -> Iterator[Removed]:
    """The removed images of a part."""
    rejected, pairs = tables["rejected"], tables["pairs"]
    removed = rejected.filter(pc.equal(rejected["reason"], "duplicate"))["image_id"]
    rows = pairs.filter(_among(pairs["pool_id"], removed)).to_pylist()
    for image_id, group in groupby(rows, lambda row: row["pool_id"]):
        entries = list(group)
        evidence = tuple(Evidence(**{n: row[n] for n in Evidence.model_fields}) for row in entries)
        yield Removed(image_id=image_id, sha256=entries[0]["pool_sha256"], pairs=evidence)
