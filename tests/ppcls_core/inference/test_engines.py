"""Networks in processes of their own: what they give, how they are kept, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from ppcls_core.inference.engines import Engines, Predict
from ppcls_core.runtime.processes import Child
from tests.conftest import PROJECT
from tests.support.processes import is_running, wait_until


@pytest.fixture(autouse=True)
def _without_paddle(monkeypatch: pytest.MonkeyPatch):
    """None of the functions below needs it, and it takes seconds to import."""
    monkeypatch.setattr("ppcls_core.inference.engines.Child", partial(Child, with_paddle=False))


PIXELS = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)


def sums(power: int) -> Predict:
    """Of each image (sum of its pixels to the power, process, number of this opening there)."""
    number, serial = os.getpid(), next(_SERIALS)

    def predict(pixels: np.ndarray) -> np.ndarray:
        total = (pixels.astype(np.int64) ** power).sum((1, 2, 3))
        return np.stack([total, np.full(len(pixels), number), np.full(len(pixels), serial)], 1)

    return predict


_SERIALS = iter(range(1000))


def refusing() -> Predict:
    raise UserError("the weights are not its own; give others")


def dying() -> Predict:
    return lambda pixels: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[return-value]


def holding(folder: Path) -> Predict:
    """A stand-in for Paddle's predictor, which keeps Python's lock while it runs."""

    def predict(pixels: np.ndarray) -> np.ndarray:
        sys.setswitchinterval(1000)
        (folder / "begun").touch()
        end = time.monotonic() + 60
        while not (folder / "ticked").exists():
            if time.monotonic() > end:
                raise UserError("no thread has gone on")
        return pixels

    return predict


def test_batches_of_any_size_come_back_as_here():
    rng = np.random.default_rng(0)
    with Engines().take(2) as processes:
        predictors = [process.predictor(sums, 2) for process in processes]
        for size, num in ((4, 2), (64, 30), (8, 1), (80, 31), (80, 0)):
            pixels = rng.integers(0, 255, (num, 3, size, size), np.uint8)
            for predict in predictors:
                assert np.array_equal(predict(pixels)[:, 0], sums(2)(pixels)[:, 0])
        pids = {int(predict(PIXELS)[0, 1]) for predict in predictors}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_process_and_what_it_has_opened_serve_the_next_who_takes_it():
    engines, seen = Engines(), []
    with engines.kept():
        for powers in ((1, 2), (2,), (1,)):
            with engines.take(1) as (process,):
                seen += [process.predictor(sums, power)(PIXELS)[0, 1:].tolist() for power in powers]
    (first, second, again, anew), pids = [serial for _, serial in seen], {pid for pid, _ in seen}
    assert len(pids) == 1
    assert again == second  # still open
    assert anew not in (first, second)  # closed, as it was not used in between
    assert not is_running(pids.pop())


def test_a_mistake_of_the_user_comes_through_and_the_process_goes_on():
    with Engines().take(1) as (process,):
        for _ in range(2):
            with pytest.raises(UserError, match="not its own"):
                process.predictor(refusing)(PIXELS)
        assert process.predictor(sums, 1)(PIXELS)[0, 0] == PIXELS[0].sum()


def test_a_process_that_dies_is_told_and_another_takes_its_place():
    engines, told = Engines(), r"ended with -9 .*finished work is kept"
    with engines.kept():
        with pytest.raises(UserError, match=told), engines.take(1) as (process,):
            process.predictor(dying)(PIXELS)
        with engines.take(1) as (process,):
            assert process.predictor(sums, 1)(PIXELS)[0, 0] == PIXELS[0].sum()


def test_processes_of_a_block_that_raises_end_with_it():
    engines, pids = Engines(), []
    with engines.kept(), pytest.raises(KeyError), engines.take(1) as (process,):
        pids.append(int(process.predictor(sums, 1)(PIXELS)[0, 1]))
        raise KeyError
    assert not is_running(pids[0])


def test_threads_go_on_while_a_network_runs(tmp_path: Path):
    """A network that keeps Python's lock until a thread here has ticked would wait for ever."""

    def tick() -> None:
        assert wait_until((tmp_path / "begun").exists, 60)
        for _ in range(20):
            time.sleep(0.002)
        (tmp_path / "ticked").touch()

    with Engines().take(1) as (process,), ThreadPoolExecutor(1) as threads:
        ticked = threads.submit(tick)
        process.predictor(holding, tmp_path)(PIXELS)
        ticked.result()


@pytest.mark.slow
def test_a_process_ends_with_a_killed_owner(tmp_path: Path):
    pid = tmp_path / "pid"
    code = (
        "import os, sys, pathlib\n"
        "from tests.ppcls_core.inference.test_engines import PIXELS, sums\n"
        "from ppcls_core.inference.engines import EngineProcess\n"
        "found = EngineProcess().predictor(sums, 1)(PIXELS)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(int(found[0, 1])))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(pid)], cwd=PROJECT, check=False)
    assert wait_until(lambda: not is_running(int(pid.read_text())), 60)


_VARIABLES = ("CUDA_VISIBLE_DEVICES", "FLAGS_selected_gpus", "NVIDIA_TF32_OVERRIDE")


def variables() -> Predict:
    return lambda pixels: np.array([os.environ.get(name, "unset") for name in _VARIABLES])


@pytest.mark.parametrize(
    ("visible", "theirs"), [("4,GPU-5", ["4", "GPU-5", "4"]), (None, ["0", "1", "0"])]
)
def test_each_process_sees_one_gpu_and_finds_its_memory_free(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, theirs: list[str]
):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("FLAGS_selected_gpus", "1")  # as in a process of a launcher
    emptied: list[None] = []
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 3)
    monkeypatch.setattr("paddle.device.cuda.empty_cache", lambda: emptied.append(None))
    with Engines().take(3, gpus=2) as processes:
        assert emptied
        rows = [process.predictor(variables)(PIXELS).tolist() for process in processes]
    assert rows == [[own, "0", "0"] for own in theirs]


def test_without_gpus_a_process_has_the_environment_of_its_owner(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("paddle.device.cuda.empty_cache", None)
    with Engines().take(1) as (process,):
        assert process.predictor(variables)(PIXELS).tolist() == ["", "unset", "unset"]


def test_nothing_starts_before_it_is_needed():
    with Engines().take(3) as processes:
        assert [process._started for process in processes] == [None] * 3
