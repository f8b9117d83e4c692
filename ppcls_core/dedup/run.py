"""`ppcls dedup`: which images of a pool show an image of another set, or one another.

Files of DIR: `pairs.parquet` and `pairs.csv` (PAIRS), `kept.parquet` (image_id), `rejected.parquet`
(image_id, reason, detail: a duplicate's is the other image's id), `weak.parquet` (image_id of those
kept that have too little texture for SIFT to be relied on), `val_weak.parquet` (image_id of those
searched for that have too little; not within a pool), `canaries.parquet` (CANARIES), `pairs.html`
(pairs to look at), `removed.json` (what others need to verify the removal, see `removal.py`). And
of the work: `search.json` (what is searched), `pool.arrow`, `val.arrow` (where the images are),
`index/`, `shards/`, one JSON file a part of the pool: running again goes on behind those that are
whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.files import LockHeld, digest_of, locked, read_json, write_json, write_table
from ppcls_core.dedup.canaries import find_canaries
from ppcls_core.dedup.collection import PART, Collection, collect
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match.detect import scan
from ppcls_core.dedup.match.index import FORMAT, ValIndex, build_index, load_index
from ppcls_core.dedup.result.gallery import Gallery
from ppcls_core.dedup.result.write import Found, Shard, write_result
from ppcls_core.runtime.monitor import Monitor, check


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

    Counted beside that: `too_few_features` (of those kept, for SIFT to be relied on), `pairs` and,
    but within a pool, `val_too_few_features`. Canaries are in none of these.

    Raises:
        UserError: nothing to search, an `out` within the pool or of another search, or in use.
        Interrupted: a stop was requested; finished shards are kept.
    """
    _check_folders(search)
    with _locked(search.out):
        pool = collect(search.pool, search.out / "pool.arrow")
        val = collect(search.against, search.out / "val.arrow") if search.against else pool
        _claim(search, pool, val)
        found = Found(pool, val, _index(search, val, monitor))
        _plant(search, found, monitor)
        _search(search, found, monitor)
        return write_result(search.out, found, lambda number: _shard(search, number))


def _check_folders(search: Search) -> None:
    out = search.out.resolve()
    for given in (search.pool, search.against):
        if given is not None and given.is_dir() and out.is_relative_to(given.resolve()):
            raise UserError(
                f"{search.out}: lies in {given}, which is searched; take another folder"
            )
        if given is not None and not given.exists():
            raise UserError(f"{given}: no folder, list file or tar there; correct the path")
    if search.out.exists() and not search.out.is_dir():
        raise UserError(f"{search.out}: is a file; give the name of a folder")
    inside = set(search.out.iterdir()) if search.out.exists() else set()
    foreign = [p for p in inside if not p.name.startswith(".") and p.suffix != ".arrow"]
    if foreign and search.out / "search.json" not in inside:
        raise UserError(f"{search.out}: holds other files; take a new folder")
    if search.against is not None and search.pool.resolve() == search.against.resolve():
        raise UserError(f"{search.pool}: is searched against itself; use --within for that")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Exclude other searches of the folder; the kernel releases this when the process dies. What a
    killed one was writing is removed."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / ".lock"))
        except LockHeld as holder:
            raise UserError(
                f"{out}: another search, process {holder}, writes there; wait or take another"
            ) from None
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); take another") from error
        for folder in (out, out / "index", out / "shards"):
            for temporary in folder.glob(".tmp-*"):
                temporary.unlink()
        try:
            yield
        finally:
            inside = list(out.iterdir())
            if {path.name for path in inside} <= {".lock", "pool.arrow", "val.arrow"}:
                for path in inside:  # nothing was begun
                    path.unlink()
                out.rmdir()


def _claim(search: Search, pool: Collection, val: Collection) -> None:
    """Refuse a folder that holds the work of another search."""
    digests = [pool.digest, val.digest if search.against else None]
    claim = {"search": digest_of([FORMAT, PART, search.config.model_dump(mode="json"), digests])}
    record = search.out / "search.json"
    if record.exists() and read_json(record) != claim:
        raise UserError(
            f"{search.out}: holds a search with other images or settings; remove it or take another"
        )
    write_json(record, claim)


def _index(search: Search, images: Collection, monitor: Monitor) -> ValIndex:
    """The index, built unless an earlier run left it whole."""
    path = search.out / "index"

    def progress(done: int) -> None:
        monitor.progress(done, len(images), "images indexed")
        check(monitor)

    if not (path / "index.json").exists():
        build_index(images.sources, images.ids, search.config, path, progress)
    return load_index(path)


def _plant(search: Search, found: Found, monitor: Monitor) -> None:
    """Search the canaries, unless an earlier run did."""
    path, start = search.out / "canaries.parquet", time.monotonic()
    if path.exists():
        return
    advance = _counter(monitor, search.config.canaries, "canaries")
    canaries = find_canaries(found.val.find, found.index, search.workers, advance)
    seconds = time.monotonic() - start
    write_table(path, canaries)
    if len(canaries):
        monitor.note(f"{len(canaries)} altered images searched in {seconds:.0f} s: the canaries")


def _counter(monitor: Monitor, total: int, unit: str, done: int = 0) -> Callable[[], None]:
    """To be called once an image."""

    def advance() -> None:
        nonlocal done
        done += 1
        monitor.progress(done, total, unit)
        check(monitor)

    return advance


def _search(search: Search, found: Found, monitor: Monitor) -> None:
    """Make every shard that is not there."""
    pool = found.pool
    missing = [number for number in pool.parts if _shard(search, number) is None]
    if missing and len(missing) < len(pool.parts):
        monitor.note(f"{len(pool.parts) - len(missing)} of {len(pool.parts)} parts are finished")
    left = sum(min(PART, len(pool) - number * PART) for number in missing)
    advance = _counter(monitor, len(pool), "images", len(pool) - left)
    for number in missing:
        ids, sources = pool.part(number)
        result = scan(sources, ids, found.index, search.workers, advance)
        nearest = Gallery()
        pairs = result.pairs.to_pylist()
        others = [row for row in pairs if not (found.within and row["pool_id"] == row["val_id"])]
        nearest.add(others, result.refused.to_pylist())
        rejected, weak = result.rejected.to_pylist(), [{"image_id": i} for i in result.weak]
        shard = Shard(pairs, nearest.refused, rejected, weak)
        write_json(_shard_path(search, number), asdict(shard))


def _shard_path(search: Search, number: int) -> Path:
    return search.out / "shards" / f"{number:05d}.json"


def _shard(search: Search, number: int) -> Shard | None:
    """What the search of a part gave; None when it is not there."""
    data = read_json(_shard_path(search, number))
    is_whole = isinstance(data, dict) and set(data) == {field.name for field in fields(Shard)}
    return Shard(**data) if is_whole else None
