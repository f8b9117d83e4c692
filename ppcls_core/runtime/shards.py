"""Work in shards: each is committed atomically, so a killed stage loses at most the one it was in.

A shard is its Parquet files, then `shard-00042.json` naming each with its rows and sha256. Resuming
is listing the JSON files whose Parquet files are as they say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import atomic_path, read_json, sha256_file, write_json
from ppcls_core.runtime.monitor import Interrupted, Monitor, check


class Advance(Protocol):
    """Call it when `num` more rows are done."""

    def __call__(self, num: int = 1, /) -> None: ...


Process = Callable[[range, Advance], Mapping[str, pa.Table]]  # rows of a shard -> its named tables
Write = Callable[[pa.Table, Path], None]
_write_table: Write = partial(pq.write_table, compression="zstd")


Opening = Callable[[Monitor], AbstractContextManager[Sequence[Process]]]
"""Opens for the block what makes shards, such as an index or networks."""


@dataclass(frozen=True)
class ShardJob:
    """Rows that are made in shards of `size` each into `directory`.

    Each of the processes that `opening` gives makes the tables of at most `piece` rows of a shard
    (None: of all), and calls `advance` as it goes on; they work at once. `writers` write the tables
    of a name that are not to be written as usual. `unit` names the rows to a monitor.

    A job travels to other hosts (`ppcls_core.runtime.cluster`) where `opening` can be pickled;
    `on_gpu`: to those with GPUs, if there are any.
    """

    directory: Path
    num_rows: int
    size: int
    opening: Opening
    writers: Mapping[str, Write] = field(default_factory=dict[str, Write])
    piece: int | None = None
    unit: str = "images"
    on_gpu: bool = False

    @property
    def num_shards(self) -> int:
        """Number of shards, those that are whole included."""
        return -(-self.num_rows // self.size)

    def rows(self, number: int) -> range:
        """The rows of a shard; the last has fewer than `size`."""
        start = number * self.size
        return range(start, min(start + self.size, self.num_rows))

    def missing(self, monitor: Monitor) -> list[int]:
        """Numbers of the shards that are not whole yet; `monitor` is told how many are."""
        num = self.num_shards
        missing = [number for number in range(num) if not _is_whole(self.directory, number)]
        if len(missing) < num:
            finished = f"{num - len(missing)} of {num} shards of {self.unit}"
            monitor.note(f"{finished} are already finished")
        return missing

    def make(self, numbers: Sequence[int], monitor: Monitor, processes: Sequence[Process]) -> None:
        """Make the shards `numbers` by `processes`, each in a thread, the first in this one; the
        other shards are counted as done. Raises as `run_shards`."""
        shards = {number: self.rows(number) for number in numbers}
        done = self.num_rows - sum(map(len, shards.values()))
        progress = SharedProgress(monitor, done, self.num_rows, self.unit)
        rest, lock = _pieces(shards, self.piece or self.size), Lock()

        def take() -> tuple[_Begun, range] | None:
            with lock:
                return next(rest, None)

        def work_off(process: Process) -> None:
            with progress.stopping_all():
                for shard, rows in iter(take, None):
                    progress.check()
                    if whole := shard.add(rows, process(rows, progress.advance)):
                        named = {
                            n: (t, self.writers.get(n, _write_table)) for n, t in whole.items()
                        }
                        _write(self.directory, shard.number, named)

        first, *others = processes
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            for process in others:
                # The monitor may report to whom this thread's context says, as Prefect's does.
                threads.submit(copy_context().run, work_off, process)
            work_off(first)
        if progress.cause is not None:
            raise progress.cause


def run_shards(job: ShardJob, monitor: Monitor) -> int:
    """Make every shard of `job` that is not whole yet, in this process; the number of shards.

    Raises Interrupted: a stop was requested; finished shards are kept.
    """
    missing = job.missing(monitor)
    with job.opening(monitor) as processes:
        job.make(missing, monitor, processes)
    return job.num_shards


def shard_ranges(num_rows: int, shard_size: int) -> list[range]:
    """The rows of each shard; the last has fewer."""
    return [range(s, min(s + shard_size, num_rows)) for s in range(0, num_rows, shard_size)]


@dataclass
class _Begun:
    """A shard of which pieces are made, in any order and by any thread."""

    number: int
    pieces: list[range]
    _made: dict[range, Mapping[str, pa.Table]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, rows: range, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table] | None:
        """The tables of the whole shard with its last piece."""
        with self._lock:
            self._made[rows] = tables
            if len(self._made) < len(self.pieces):
                return None
        if len(self.pieces) == 1:
            return dict(tables)
        parts = [self._made[piece] for piece in self.pieces]
        return {n: pa.concat_tables([p[n] for p in parts]).combine_chunks() for n in tables}


def _pieces(shards: Mapping[int, range], size: int) -> Iterator[tuple[_Begun, range]]:
    """Pieces of at most `size` rows of the shards, one shard after the other."""
    for number, rows in shards.items():
        shard = _Begun(number, [rows[start : start + size] for start in range(0, len(rows), size)])
        yield from ((shard, piece) for piece in shard.pieces)


@dataclass
class SharedProgress:
    """Things done by all threads; `cause`, which stopped the first of them, stops all."""

    monitor: Monitor
    done: int
    total: int
    unit: str
    cause: BaseException | None = None
    _lock: Lock = field(default_factory=Lock)

    def advance(self, num: int = 1, /) -> None:
        """Tell that `num` more are done. Raises Interrupted: all have to stop."""
        with self._lock:
            self.done += num
            self.monitor.progress(self.done, self.total, self.unit)
        self.check()

    def check(self) -> None:
        """Raise Interrupted: all have to stop."""
        check(self.monitor)
        if self.cause is not None:
            raise Interrupted

    @contextmanager
    def stopping_all(self) -> Iterator[None]:
        """A block whose error stops the other threads."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - `run_shards` raises it
            self.cause = self.cause or error


def read_shards(directory: Path, kind: str, num_shards: int, schema: pa.Schema) -> pa.Table:
    """The tables named `kind` of all shards, one after the other."""
    paths = [directory / shard_file(number, kind) for number in range(num_shards)]
    return pa.concat_tables([schema.empty_table(), *(pq.read_table(path) for path in paths)])


def shard_file(number: int, kind: str) -> str:
    """Name of a shard's table."""
    return f"shard-{number:05d}.{kind}.parquet"


def _write(directory: Path, number: int, tables: Mapping[str, tuple[pa.Table, Write]]) -> None:
    entries = {}
    for kind, (table, write) in tables.items():
        path = directory / shard_file(number, kind)
        with atomic_path(path) as temporary:
            write(table, temporary)
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
