"""Shards by several threads: each is made once, and what stops one stops all."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.config import UserError
from ppcls_core.runtime.monitor import Interrupted, Monitor, SilentMonitor
from ppcls_core.runtime.shards import Advance, Process, ShardJob, shard_file
from ppcls_core.runtime.shards import run_shards as run_job


def run_shards(
    directory: Path,
    num_rows: int,
    size: int,
    monitor: Monitor,
    *processes: Process,
    piece: int | None = None,
) -> int:
    opening = lambda monitor: nullcontext(processes)  # noqa: E731
    return run_job(ShardJob(directory, num_rows, size, opening, piece=piece), monitor)


def counting(made: list[int]) -> Process:
    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        for _ in rows:
            advance()
        made.append(rows.start)
        return {"x": pa.table({"x": list(rows)})}

    return process


@pytest.mark.parametrize("num", [1, 3])
def test_every_shard_is_made_once(tmp_path, num):
    made: list[int] = []
    assert run_shards(tmp_path, 30, 4, SilentMonitor(), *[counting(made)] * num) == 8
    assert sorted(made) == list(range(0, 30, 4))
    tables = [pq.read_table(tmp_path / shard_file(number, "x")) for number in range(8)]
    assert pa.concat_tables(tables)["x"].to_pylist() == list(range(30))
    assert run_shards(tmp_path, 30, 4, SilentMonitor(), counting(made)) == 8
    assert len(made) == 8


@pytest.mark.parametrize("num", [1, 3])
def test_a_shard_is_the_same_from_pieces_made_by_several(tmp_path, num):
    made: list[int] = []
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    run_shards(whole, 30, 8, SilentMonitor(), counting([]))
    assert run_shards(pieces, 30, 8, SilentMonitor(), *[counting(made)] * num, piece=3) == 4
    assert sorted(made) == [0, 3, 6, 8, 11, 14, 16, 19, 22, 24, 27]
    for number in range(4):
        name = shard_file(number, "x")
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()


def test_all_threads_report_in_the_callers_context(tmp_path):
    server: ContextVar[str] = ContextVar("server", default="another")
    seen: list[tuple[int, str]] = []
    together = threading.Barrier(2, timeout=60)

    class Reports(SilentMonitor):
        def progress(self, done: int, total: int, unit: str) -> None:
            seen.append((threading.get_ident(), server.get()))

    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        together.wait()
        advance()
        return {}

    server.set("ours")
    run_shards(tmp_path, 2, 1, Reports(), process, process)
    assert len({thread for thread, _ in seen}) == 2
    assert {name for _, name in seen} == {"ours"}


def test_a_failure_stops_the_others_and_is_the_one_told(tmp_path):
    failed, made = threading.Event(), []

    def fails(rows: range, advance: Advance) -> dict[str, pa.Table]:
        failed.set()
        raise UserError("the teacher gives NaN")

    def waits(rows: range, advance: Advance) -> dict[str, pa.Table]:
        assert failed.wait(100)
        made.append(rows.start)
        for _ in range(10_000):
            advance()
        return {}

    with pytest.raises(UserError, match="the teacher gives NaN"):
        run_shards(tmp_path, 10**4, 4, SilentMonitor(), waits, fails)
    assert len(made) <= 1


def test_a_stop_reaches_all(tmp_path):
    class Stop(SilentMonitor):
        stop_requested = True

    made: list[int] = []
    with pytest.raises(Interrupted):
        run_shards(tmp_path, 100, 4, Stop(), counting(made), counting(made))
    assert made == []
