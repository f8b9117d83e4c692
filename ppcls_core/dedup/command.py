"""`ppcls dedup`: which images of a pool show an image of another set, or one another.

Files of DIR: `pairs.parquet` (PAIRS), `kept.parquet` (image_id), `rejected.parquet` (image_id,
reason, detail: a duplicate's is the other image's id), `removed.json` (what others need to verify
the removal, see `removal.py`), and of the work `search.json` (what is searched), `index/` and
`shards/`, one JSON file a shard: running again goes on behind the last whole one.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.config import UserError
from data_catalog.files import atomic_path, digest_of, read_json, write_json
from data_catalog.manifest import REJECTED
from ppcls_core.dedup.collection import Collection, collect
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.detect import PAIRS, scan
from ppcls_core.dedup.index import FORMAT, ValIndex, build_index, load_index
from ppcls_core.dedup.removal import write_removal
from ppcls_core.dedup.within import best_first, keep_one_of_each, one_way
from ppcls_core.monitor import Monitor, check

SHARD = 4096  # images
KEPT = pa.schema([("image_id", pa.string())])


@dataclass(frozen=True)
class Search:
    """What is asked for: the images of `pool` that show one of `against`, or, if that is None, one
    another; `out` is the folder of the result."""

    pool: Path
    against: Path | None
    out: Path
    config: DedupConfig
    workers: int


def dedup(search: Search, monitor: Monitor) -> dict[str, int]:
    """Search, and leave the result in `search.out`; counts: in = kept + duplicates + each reason.

    `weak` (too few features for SIFT) and `pairs` are counted beside that.

    Raises:
        UserError: nothing to search, an `out` within the pool or of another search, or in use.
        Interrupted: a stop was requested; finished shards are kept.
    """
    pool, val = _collections(search)
    with _locked(search.out):
        _claim(search, pool, val)
        index = _index(search, val or pool, monitor)
        shards = list(_shards(search, pool, index, monitor))
        return _finish(search, pool, val, shards)


def _collections(search: Search) -> tuple[Collection, Collection | None]:
    out = search.out.resolve()
    for given in (search.pool, search.against):
        if given is not None and given.is_dir() and out.is_relative_to(given.resolve()):
            raise UserError(
                f"{search.out}: lies in {given}, which is searched; take another folder"
            )
    if search.out.exists() and not search.out.is_dir():
        raise UserError(f"{search.out}: is a file; give the name of a folder")
    if search.against is None:
        return collect(search.pool), None
    if search.against.exists() and search.pool.resolve() == search.against.resolve():
        raise UserError(f"{search.pool}: is searched against itself; use --within for that")
    return collect(search.pool), collect(search.against)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Exclude other searches of the folder; the kernel releases this when the process dies."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); take another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{out}: another search writes there; wait or take another") from error
        yield


def _claim(search: Search, pool: Collection, val: Collection | None) -> None:
    """Refuse a folder that holds the work of another search."""
    tables = [_digest(pool), val and _digest(val)]
    claim = {"search": digest_of([FORMAT, SHARD, search.config.model_dump(mode="json"), tables])}
    record = search.out / "search.json"
    if record.exists() and read_json(record) != claim:
        raise UserError(
            f"{search.out}: holds a search with other images or settings; remove it or take another"
        )
    write_json(record, claim)


def _digest(images: Collection) -> str:
    columns = [images.table[name] for name in ("image_id", "size")]
    parts = [[c.to_pylist() for c in row] for row in zip(*(c.chunks for c in columns), strict=True)]
    return digest_of([[digest_of(part) for part in parts], images.damaged.to_pylist()])


def _index(search: Search, images: Collection, monitor: Monitor) -> ValIndex:
    """The index, built unless an earlier run left it whole."""
    path, everything = search.out / "index", range(len(images))

    def progress(done: int) -> None:
        monitor.progress(done, len(images), "images indexed")
        check(monitor)

    if not (path / "index.json").exists():
        sources, ids = images.sources(everything), images.ids(everything)
        build_index(sources, ids, search.config, path, progress)
    return load_index(path)


def _shards(
    search: Search, pool: Collection, index: ValIndex, monitor: Monitor
) -> Iterator[dict[str, Any]]:
    """The found rows of each shard, by kind; those that an earlier run left are read."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        monitor.progress(done, len(pool), "images")
        check(monitor)

    for number, start in enumerate(range(0, len(pool), SHARD)):
        rows = range(start, min(start + SHARD, len(pool)))
        path = search.out / "shards" / f"{number:05d}.json"
        shard = read_json(path)
        if shard is None:
            found = scan(pool.sources(rows), pool.ids(rows), index, search.workers, advance)
            tables = {"pairs": found.pairs.to_pylist(), "rejected": found.rejected.to_pylist()}
            shard = {**tables, "weak": found.weak}
            write_json(path, shard)
        done = rows.stop
        yield shard


def _finish(
    search: Search, pool: Collection, val: Collection | None, shards: list[dict[str, Any]]
) -> dict[str, int]:
    pairs, unusable, weak = (
        [row for shard in shards for row in shard[kind]] for kind in ("pairs", "rejected", "weak")
    )
    ids = pool.ids(range(len(pool)))
    bad = {row["image_id"] for row in unusable}
    if val is None:
        order = best_first(search.out / "index", ids)
        pairs = one_way(pairs, order)
        duplicates = keep_one_of_each(pairs, order)
    else:
        duplicates = {row["pool_id"]: row["val_id"] for row in reversed(pairs)}
    removed = [{"image_id": i, "reason": "duplicate", "detail": d} for i, d in duplicates.items()]
    removed.sort(key=lambda row: row["image_id"])
    kept = [image_id for image_id in ids if image_id not in bad and image_id not in duplicates]
    rejected = [*removed, *unusable, *pool.damaged.to_pylist()]
    tables = {
        "pairs": pa.Table.from_pylist(pairs, PAIRS),
        "kept": pa.table([kept], KEPT),
        "rejected": pa.Table.from_pylist(rejected, REJECTED),
    }
    for name, table in tables.items():
        with atomic_path(search.out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
    others = pool if val is None else val
    write_removal(
        search.out / "removed.json", pairs, set(duplicates), (pool, others), search.config
    )
    reasons = Counter(row["reason"] for row in rejected)
    num_duplicates = reasons.pop("duplicate", 0)
    num_in = len(ids) + pool.damaged.num_rows
    assert num_in == len(kept) + num_duplicates + sum(reasons.values())
    counts = {"in": num_in, "kept": len(kept), "duplicates": num_duplicates, **reasons}
    return {**counts, "weak": len(weak), "pairs": len(pairs)}
