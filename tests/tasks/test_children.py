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


def squares(power: int) -> Make:
    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        for _ in rows:
            advance()
        if 13 in rows:
            raise UserError("13 is not wanted; leave it out")
        if 99 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        columns = {"x": [x**power for x in rows], "pid": [os.getpid()] * len(rows)}
        return {"powers": pa.table(columns)}

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


def lists() -> Make:
    item = pa.field("item", pa.int8(), nullable=False)
    schema = pa.schema([pa.field("x", pa.list_(item, 2), nullable=False)], {"made by": "a child"})
    return lambda rows, advance: {"lists": pa.table({"x": [[r, 2] for r in rows]}, schema=schema)}


def test_a_table_comes_with_its_whole_schema():
    with children(1, lists) as (make,):
        got, want = (make_(range(3), nothing)["lists"] for make_ in (make, lists()))
    assert got.equals(want, check_metadata=True)
    assert got.schema.equals(want.schema, check_metadata=True)


def seen() -> Make:
    names = ("CUDA_VISIBLE_DEVICES", "FLAGS_selected_gpus", "NVIDIA_TF32_OVERRIDE")
    return lambda rows, advance: {"seen": pa.table({n: [os.environ.get(n)] for n in names})}


@pytest.mark.parametrize(
    ("visible", "theirs"), [("4,GPU-5", ["4", "GPU-5", "4"]), (None, ["0", "1", "0"])]
)
def test_each_child_sees_one_gpu_and_finds_its_memory_free(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, theirs: list[str]
):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("FLAGS_selected_gpus", "1")  # as in a process of a launcher
    emptied: list[None] = []
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 2)
    monkeypatch.setattr("paddle.device.cuda.empty_cache", lambda: emptied.append(None))
    with children(3, seen) as processes:
        assert emptied
        rows = [process(range(1), nothing)["seen"].to_pylist()[0] for process in processes]
    assert [row.pop("CUDA_VISIBLE_DEVICES") for row in rows] == theirs
    assert rows == 3 * [{"FLAGS_selected_gpus": "0", "NVIDIA_TF32_OVERRIDE": "0"}]


def test_without_gpus_a_child_has_the_environment_of_its_parent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("paddle.device.cuda.empty_cache", None)
    with children(1, seen) as (process,):
        row = process(range(1), nothing)["seen"].to_pylist()[0]
    assert row == {
        "CUDA_VISIBLE_DEVICES": "",
        "FLAGS_selected_gpus": None,
        "NVIDIA_TF32_OVERRIDE": None,
    }


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
