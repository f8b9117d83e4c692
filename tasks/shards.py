"""Work in shards: each is committed atomically, so a killed stage loses at most the one it was in.

A shard is its Parquet files, then `shard-00042.json` naming each with its rows and sha256. Resuming
is listing the JSON files whose Parquet files are as they say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.files import atomic_path, read_json, sha256_file, write_json
from ppcls_core.monitor import check
from tasks.stage import Work

Advance = Callable[[], None]  # call once an item
Process = Callable[[range, Advance], Mapping[str, pa.Table]]  # rows of a shard -> its named tables


def run_shards(work: Work, num_rows: int, process: Process) -> int:
    """Make every shard of `num_rows` rows that is not there yet; the number of shards.

    `process(rows, advance)` gives the tables of one shard and calls `advance()` once a row.

    Raises:
        Interrupted: a stop was requested; finished shards are kept.
    """
    size = work.recipe.shard_size
    starts = range(0, num_rows, size)
    finished = [_is_whole(work.directory, number) for number in range(len(starts))]
    done = sum(
        len(range(s, min(s + size, num_rows))) for s, f in zip(starts, finished, strict=True) if f
    )
    if done:
        work.monitor.note(f"{sum(finished)} of {len(starts)} shards are already finished")

    def advance() -> None:
        nonlocal done
        done += 1
        work.monitor.progress(done, num_rows, "images")
        check(work.monitor)

    for number, start in enumerate(starts):
        if not finished[number]:
            check(work.monitor)
            tables = process(range(start, min(start + size, num_rows)), advance)
            _write(work.directory, number, tables)
    return len(starts)


def read_shards(directory: Path, kind: str, num_shards: int, schema: pa.Schema) -> pa.Table:
    """The tables named `kind` of all shards, one after the other."""
    paths = [directory / shard_file(number, kind) for number in range(num_shards)]
    return pa.concat_tables([schema.empty_table(), *(pq.read_table(path) for path in paths)])


def shard_file(number: int, kind: str) -> str:
    """Name of a shard's table."""
    return f"shard-{number:05d}.{kind}.parquet"


def _write(directory: Path, number: int, tables: Mapping[str, pa.Table]) -> None:
    entries = {}
    for kind, table in tables.items():
        path = directory / shard_file(number, kind)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        entries[path.name] = {"rows": table.num_rows, "sha256": sha256_file(path)}
    write_json(_record(directory, number), entries)


def _is_whole(directory: Path, number: int) -> bool:
    entries = read_json(_record(directory, number))
    if not entries:
        return False
    paths = {directory / name: entry["sha256"] for name, entry in entries.items()}
    return all(path.is_file() and sha256_file(path) == digest for path, digest in paths.items())


def _record(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:05d}.json"


def shard_files(num_shards: int, kinds: Sequence[str]) -> list[str]:
    """Names of all files of the shards, records included."""
    tables = [shard_file(number, kind) for number in range(num_shards) for kind in kinds]
    return tables + [f"shard-{number:05d}.json" for number in range(num_shards)]
