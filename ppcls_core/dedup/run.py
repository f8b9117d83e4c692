"""The duplicate search, which the pipeline's stage and `ppcls dedup` call alike."""

import os
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from data_catalog.base.files import write_table
from data_catalog.base.words import counted, reason_in_words
from data_catalog.images.collect import describe
from data_catalog.images.columns import Images, Roots, read_images, write_images
from ppcls_core.data.lost import reason_counts
from ppcls_core.dedup.canaries import UNIT, find_canaries
from ppcls_core.dedup.match.detect import scan
from ppcls_core.dedup.match.index import ValIndex, build_index, load_index
from ppcls_core.dedup.result.removal import Searched
from ppcls_core.dedup.result.write import SearchResult, val_account, write_result
from ppcls_core.dedup.search import POOL, SHARDS, Search
from ppcls_core.runtime.cluster import LOCAL, run_on
from ppcls_core.runtime.monitor import Monitor, check
from ppcls_core.runtime.shards import Advance, Process, ShardJob

NUM_NAMED = 3  # lost images that a message names


def find_duplicates(search: Search, monitor: Monitor) -> SearchResult:
    """Search, and leave the files that `ppcls_core.dedup.search` lists in `search.out`.

    What an earlier search of the same images and settings has finished there is not done again; the
    caller makes sure that nothing else lies there. The monitor gets notes of the losses.

    Raises UserError: no validation image can be read. Interrupted: a stop was requested; finished
    shards are kept.
    """
    for name, images in {search.title: search.pool, "validation": search.against}.items():
        if images is not None:
            monitor.note(f"{name}: {describe(images)}")
    index = _index(search, monitor)
    val = val_account(search, index)
    if val is not None:
        _note_val(search, index, val, monitor)
    _plant(search, index, monitor)
    _search(search, index, monitor)
    here = search.decisions.between(search.pool, search.val)
    result = write_result(replace(search, decisions=here), index, val)
    _note_rejected(search.out, monitor)
    if counts := result.decision_counts:
        listed = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
        monitor.note(f"decisions of a person on pairs: {listed}")
    if elsewhere := len(search.decisions) - len(here):
        decisions = counted(elsewhere, "decision")
        monitor.note(f"{decisions} of a person: on other images than these")
    return result


def unusable(folder: Path) -> pa.Table:
    """The images of a finished search's pool that are no usable images (REJECTED)."""
    path = folder / "rejected.parquet"
    return pq.read_table(path, filters=pc.field("reason") != "duplicate")


def _note_rejected(folder: Path, monitor: Monitor) -> None:
    rejected = unusable(folder)
    if len(rejected):
        file = folder / "rejected.csv"
        monitor.note(f"not used: {_reasons(rejected)}; all of them and why: {file}")


def _reasons(rejected: pa.Table) -> str:
    """The images of a REJECTED table: how many for each reason, and the first by name."""
    numbers = reason_counts(rejected).items()
    counts = ", ".join(f"{number:,} {reason_in_words(reason)}" for reason, number in numbers)
    return f"{counts} ({_some(rejected['image_id'][:NUM_NAMED].to_pylist(), len(rejected))})"


def _some(names: list[str], total: int) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", ..." if total > NUM_NAMED else "")


def _index(search: Search, monitor: Monitor) -> ValIndex:
    """The index, built unless an earlier run left it whole."""
    path = search.index_folder
    if not (path / "index.json").exists():
        build_index(search.val, search.config, path, search.workers, monitor)
    shutil.rmtree(path / SHARDS, ignore_errors=True)  # of a build killed after its last step
    return load_index(path)


def _note_val(search: Search, index: ValIndex, val: Searched, monitor: Monitor) -> None:
    """Note the validation images not searched for, or only in part; none at all is an error."""
    if not val.used:
        lost = _reasons(index.rejected) if len(index.rejected) else "the set is empty"
        raise UserError(
            f"no validation image can be read, expected at least one to search for: {lost}; "
            "correct the path, or replace these images"
        )
    if len(index.rejected):
        monitor.note(
            f"validation: {len(index.rejected):,} of {len(search.val):,} images cannot be read and "
            f"are not searched for: {_reasons(index.rejected)}"
        )
    if val.too_few_features:
        some = _some(index.weak, val.too_few_features)
        monitor.note(
            f"validation: {val.too_few_features:,} of {val.used:,} images have too few features: "
            f"only equal copies and those of nearly equal thumbnails are found ({some})"
        )


def _plant(search: Search, index: ValIndex, monitor: Monitor) -> None:
    """Search the canaries, unless an earlier run did."""
    path, num = search.out / "canaries.parquet", search.config.canaries
    start = time.monotonic()
    if path.exists():
        return
    done = count(1)

    def advance() -> None:
        monitor.progress(next(done), num, UNIT)
        check(monitor)

    canaries = find_canaries(search.val.find, index, num, search.workers, advance)
    seconds = time.monotonic() - start
    write_table(path, canaries)
    if len(canaries):
        of = "images" if search.within else "validation images"
        monitor.note(
            f"searched {counted(len(canaries), 'altered copy')} of {of} in {seconds:.0f} s"
        )


def _search(search: Search, index: ValIndex, monitor: Monitor) -> None:
    """Make every shard of the pool that is not there."""
    out = search.out.absolute()
    pool = out / POOL
    if search.cluster == LOCAL:
        opening = partial(_scanning, search.pool, index, search.workers)
    else:
        write_images(pool, search.pool)
        opening = partial(_open_scanning, pool, search.pool.roots, search.index_folder)
    job = ShardJob(out / SHARDS, len(search.pool), search.shard_size, opening)
    run_on(search.cluster, job, monitor)
    pool.unlink(missing_ok=True)


def _open_scanning(
    pool: Path, roots: Roots, index: Path, monitor: Monitor
) -> AbstractContextManager[list[Process]]:
    """As `_scanning`, on a host of a cluster."""
    workers = len(os.sched_getaffinity(0))
    return _scanning(read_images(pool, roots), load_index(index), workers, monitor)


def _scanning(
    pool: Images, index: ValIndex, workers: int, monitor: Monitor
) -> AbstractContextManager[list[Process]]:
    """What searches rows of the pool."""

    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        part = pool.part(rows.start, rows.stop)
        return vars(scan(part.sources(), part.ids, index, workers, advance))

    return nullcontext([process])
