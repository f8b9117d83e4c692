"""From the shards of a search to its result: tables, removal list, page. Of the pool a part at a
time is held; of a search within it, all pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import write_bytes, write_table
from data_catalog.images.manifest import IDS, REJECTED
from ppcls_core.dedup.canaries import recall
from ppcls_core.dedup.collection import Collection
from ppcls_core.dedup.features.picture import Source
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import PAIRS
from ppcls_core.dedup.match.within import best_first, keep_one_of_each, one_way
from ppcls_core.dedup.result.gallery import Gallery, pictures
from ppcls_core.dedup.result.removal import Evidence, Removed, removal_to, sha256_of
from ppcls_core.dedup.result.tables import rows_to, write_csv

TABLES = {"pairs": PAIRS, "kept": IDS, "rejected": REJECTED, "weak": IDS}
Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The images, those indexed (`pool` itself where that is searched within), and the index."""

    pool: Collection
    val: Collection
    index: ValIndex

    @property
    def within(self) -> bool:
        """Whether the pool is searched within."""
        return self.val is self.pool


@dataclass(frozen=True)
class Shard:
    """What the search of a part gave: rows of PAIRS, of the pairs nearly accepted, of REJECTED, and
    of the images with too few features (IDS)."""

    pairs: list[Row]
    refused: list[Row]
    rejected: list[Row]
    weak: list[Row]


@dataclass(frozen=True)
class _Part:
    """A part of the pool, judged: `duplicates`: image that goes -> the other, that stays."""

    ids: list[str]
    sources: list[Source]
    shard: Shard
    pairs: list[Row]
    duplicates: dict[str, str]


def write_result(out: Path, found: Found, read: Callable[[int], Shard | None]) -> dict[str, int]:
    """Write the result to the folder `out`; the counts. `read` gives the shard of a part."""
    counts: Counter[str] = Counter()
    gallery = Gallery()
    rows = {image_id: row for row, image_id in enumerate(found.index.ids)}
    val, config = None if found.within else found.val, found.index.config
    with ExitStack() as stack:
        tables = {
            name: stack.enter_context(rows_to(out / f"{name}.parquet", schema))
            for name, schema in TABLES.items()
        }
        remove = stack.enter_context(removal_to(out / "removed.json", found.pool, val, config))
        for part in _parts(out, found, read):
            gone = part.duplicates.keys() | {row["image_id"] for row in part.shard.rejected}
            kept = [{"image_id": image_id} for image_id in part.ids if image_id not in gone]
            weak = [row for row in part.shard.weak if row["image_id"] not in gone]
            rejected = [*_removed(part.duplicates), *part.shard.rejected]
            for name, new in zip(TABLES, (part.pairs, kept, rejected, weak), strict=True):
                tables[name].add(new)
                counts[name] += len(new)
            counts.update(row["reason"] for row in rejected)
            gallery.add(part.pairs, part.shard.refused)
            remove(_entries(part, found.index, rows))
        tables["rejected"].add(found.pool.damaged)
        counts.update(row["reason"] for row in found.pool.damaged)
    write_csv(out / "pairs.parquet", out / "pairs.csv")
    summary = _counts(counts, len(found.pool) + len(found.pool.damaged))
    if not found.within:
        weak = found.index.weak
        write_table(out / "val_weak.parquet", pa.table([weak], schema=IDS))
        summary["val_too_few_features"] = len(weak)
    _write_page(out, found, gallery, summary)
    return summary


def _parts(out: Path, found: Found, read: Callable[[int], Shard | None]) -> Iterator[_Part]:
    merged = _merged(out, found, read) if found.within else None
    for number in found.pool.parts:
        ids, sources = found.pool.part(number)
        shard = read(number)
        assert shard is not None, "the search made it"
        if merged is None:
            pairs = shard.pairs
            duplicates = {row["pool_id"]: row["val_id"] for row in reversed(pairs)}
        else:
            pairs = [row for image_id in ids for row in merged[0].get(image_id, [])]
            duplicates = {i: merged[1][i] for i in ids if i in merged[1]}
        yield _Part(ids, sources, shard, pairs, duplicates)


def _merged(
    out: Path, found: Found, read: Callable[[int], Shard | None]
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Of a search within: (pairs of each image with better ones, image that goes -> one that
    stays)."""
    rank = best_first(out / "index", found.index.ids)
    shards = (read(number) for number in found.pool.parts)
    pairs = one_way([row for shard in shards if shard for row in shard.pairs], rank)
    of_image: defaultdict[str, list[Row]] = defaultdict(list)
    for row in pairs:
        of_image[row["pool_id"]].append(row)
    return dict(of_image), keep_one_of_each(pairs, rank)


def _removed(duplicates: dict[str, str]) -> list[Row]:
    return [
        {"image_id": image_id, "reason": "duplicate", "detail": other}
        for image_id, other in sorted(duplicates.items())
    ]


def _entries(part: _Part, index: ValIndex, rows: dict[str, int]) -> Iterator[Removed]:
    """Of the removal list."""
    pairs: defaultdict[str, list[Evidence]] = defaultdict(list)
    for row in part.pairs:
        sha256 = index.bytes_digests[rows[row["val_id"]]]
        evidence = {name: row[name] for name in Evidence.model_fields if name in row}
        pairs[row["pool_id"]].append(Evidence(**evidence, val_sha256=sha256))
    for image_id, source in zip(part.ids, part.sources, strict=True):
        if image_id in part.duplicates:
            yield Removed(image_id=image_id, sha256=sha256_of(source), pairs=tuple(pairs[image_id]))


def _counts(counts: Counter[str], num_in: int) -> dict[str, int]:
    kept, pairs, weak = (counts.pop(name) for name in ("kept", "pairs", "weak"))
    duplicates = counts.pop("duplicate", 0)
    del counts["rejected"]
    assert num_in == kept + duplicates + sum(counts.values())
    summary = {"in": num_in, "kept": kept, "duplicates": duplicates, **dict(sorted(counts.items()))}
    return {**summary, "too_few_features": weak, "pairs": pairs}


def _write_page(out: Path, found: Found, gallery: Gallery, counts: dict[str, int]) -> None:
    from ppcls_core.report.model import PlantedRow, SearchReport
    from ppcls_core.report.page import render_search

    canaries = recall(pq.read_table(out / "canaries.parquet"))
    page = SearchReport(
        counts=counts,
        canaries=tuple(PlantedRow(attack, *score) for attack, score in canaries.items()),
        duplicates=pictures(gallery, found.pool.find, found.val.find, found.index.config),
        within=found.within,
    )
    write_bytes(out / "pairs.html", render_search(page).encode())
