"""Work in child processes: what they make comes back, and they never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from data_catalog.base.config import UserError
from ppcls_core.runtime.shards import Advance
from tasks.run.processes import Make, children
from tests.conftest import PROJECT
from tests.support.processes import is_running, wait_until


def squares(number: int, power: int) -> Make:
    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        for _ in rows:
            advance()
        if 13 in rows:
            raise UserError("13 is not wanted; leave it out")
        if 99 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        columns = {"x": [x**power for x in rows], "child": [number] * len(rows)}
        return {"powers": pa.table({**columns, "pid": [os.getpid()] * len(rows)})}

    return process


def nothing() -> None: ...


def test_a_child_makes_shard_after_shard():
    seen: list[int] = []
    with children(1, squares, 2) as (process,):
        first = process(range(3), lambda: seen.append(1))["powers"]
        second = process(range(3, 5), nothing)["powers"]
    assert first["x"].to_pylist() == [0, 1, 4]
    assert second["x"].to_pylist() == [9, 16]
    assert len(seen) == 3
    assert first["pid"][0] == second["pid"][0] != os.getpid()


def lists(number: int) -> Make:
    item = pa.field("item", pa.int8(), nullable=False)
    schema = pa.schema([pa.field("x", pa.list_(item, 2), nullable=False)], {"made by": "a child"})
    return lambda rows, advance: {"lists": pa.table({"x": [[r, 2] for r in rows]}, schema=schema)}


def test_a_table_comes_with_its_whole_schema():
    with children(1, lists) as (make,):
        got, want = (make_(range(3), nothing)["lists"] for make_ in (make, lists(0)))
    assert got.equals(want, check_metadata=True)
    assert got.schema.equals(want.schema, check_metadata=True)


def test_each_child_knows_its_number():
    with children(2, squares, 1) as processes:
        numbers = [p(range(1), nothing)["powers"]["child"][0].as_py() for p in processes]
    assert numbers == [0, 1]


def test_a_mistake_of_the_user_comes_through_and_the_child_goes_on():
    with children(1, squares, 1) as (process,):
        with pytest.raises(UserError, match="13 is not wanted"):
            process(range(10, 20), nothing)
        assert process(range(2), nothing)["powers"]["x"].to_pylist() == [0, 1]


def test_a_child_that_dies_is_told():
    with children(1, squares, 1) as (process,):
        with pytest.raises(UserError, match=r"ended with -9 .*finished work is kept"):
            process(range(99, 100), nothing)
        with pytest.raises(UserError, match="ended with -9"):
            process(range(1), nothing)


def test_children_end_with_a_killed_parent(tmp_path: Path):
    pid = tmp_path / "pid"
    code = (
        "import os, sys, time, pathlib\n"
        "from tasks.run.processes import children\n"
        "from tests.tasks.test_children import squares, nothing\n"
        "with children(1, squares, 1) as (process,):\n"
        "    child = process(range(1), nothing)['powers']['pid'][0].as_py()\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(child))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(pid)], cwd=PROJECT, check=False)
    assert wait_until(lambda: not is_running(int(pid.read_text())), 60)
