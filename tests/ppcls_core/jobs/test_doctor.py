"""`ppcls doctor`: what works, what is not there, what fails, and nothing that it takes along."""

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_catalog.base.config import UserError
from ppcls_core.cli.app import app
from ppcls_core.jobs import doctor
from ppcls_core.jobs.doctor import Absent, Cell, Trial, _Host, _tried


def number(value: float) -> np.ndarray:
    return np.array([1.0, value])


def die() -> np.ndarray:
    os.kill(os.getpid(), signal.SIGSEGV)
    return number(0)


def hang() -> np.ndarray:
    time.sleep(100)
    return number(0)


def fail(error: Exception) -> np.ndarray:
    raise error


def tried(call: Callable[[], np.ndarray], tolerance: float = 0.01) -> Cell:
    class Here:
        """A device in this process."""

        def ask(self, call: Callable[[], np.ndarray]) -> np.ndarray:
            return call()

    trial = Trial("a path", call, partial(number, 2.0), tolerance)
    return _tried(trial, Here(), lambda wanted: wanted())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "state", "detail"),
    [
        (partial(number, 2.0), "works", "0.0 s"),
        (partial(number, 2.01), "works", "0.0 s, off by 5e-03"),
        (partial(number, 2.1), "fails", "off by 5.0e-02 of the CPU's, 1e-02 is allowed"),
        (partial(number, np.nan), "fails", "off by nan of the CPU's, 1e-02 is allowed"),
        (partial(fail, Absent("not on this device")), "-", "not on this device"),
        (partial(fail, UserError("cannot run it")), "fails", "cannot run it"),
        (partial(fail, OSError("(External) CUDNN error(9).\n [Hint]")), "fails", "CUDNN error(9)."),
        (partial(fail, ZeroDivisionError()), "fails", "ZeroDivisionError"),
    ],
)
def test_how_a_trial_ends(call: Callable[[], np.ndarray], state: str, detail: str) -> None:
    cell = tried(call)
    assert cell.state == state
    assert detail in cell.detail


@pytest.mark.slow
def test_a_crash_and_a_hang_are_cells_and_the_next_trial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = _Host({"CUDA_VISIBLE_DEVICES": ""}, tmp_path / "log")
    wanted = partial(number, 2.0)
    try:
        crashed = _tried(Trial("a crash", die, wanted), host, lambda call: call())
        assert _tried(Trial("after it", wanted, wanted), host, lambda call: call()).state == "works"
        monkeypatch.setattr(doctor, "SECONDS", 0.2)
        hung = _tried(Trial("a hang", hang, wanted), host, lambda call: call())
    finally:
        host.close()
    assert (crashed.state, hung.state) == ("fails", "fails")
    assert "SIGSEGV" in crashed.detail
    assert "SIGKILL" in hung.detail


@pytest.mark.parametrize(
    ("num", "every", "titles"),
    [
        (0, False, ["CPU"]),
        (1, False, ["CPU", "GPU 0"]),
        (3, False, ["CPU", "GPU 0"]),
        (3, True, ["CPU", "GPU 0", "GPU 1", "GPU 2"]),
    ],
)
def test_each_device_is_tried_alone(
    num: int, every: bool, titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: num)
    found = doctor.devices(every)
    assert list(found) == titles
    visible = [environment["CUDA_VISIBLE_DEVICES"] for environment in found.values()]
    assert visible == ["", *map(str, range(len(titles) - 1))]
    for environment in list(found.values())[1:]:
        assert environment["NVIDIA_TF32_OVERRIDE"] == "0"
        assert environment["FLAGS_cudnn_deterministic"] == "1"


@pytest.mark.parametrize(
    ("cuda", "names", "words"),
    [
        ("", ["H100"], "is for CPUs; `make setup GPU=cu126`"),
        ("cu126", [], "NVIDIA's driver shows none"),
        ("cu126", ["H100"], "the driver has H100; look at CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_there_is_no_gpu_is_said(
    cuda: str, names: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "num_gpus", lambda: 0)
    monkeypatch.setattr(doctor, "cuda_of_paddle", lambda: cuda)
    monkeypatch.setattr(doctor, "gpu_names", lambda: names)
    with pytest.raises(UserError, match=words):
        doctor.devices(True)


def test_one_gpu_cannot_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "num_gpus", lambda: 1)
    assert doctor._two("GPU 0", tmp_path / "log") == Cell("-", "needs two GPUs")
    assert doctor._two("CPU", tmp_path / "log").state == "-"


def test_the_definition_of_a_neighbour_is_that_of_faiss() -> None:
    assert (doctor.neighbours() == doctor.exact_neighbours()).all()


@pytest.mark.slow
def test_all_that_this_machine_has_works() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    titles = [trial.title for trial in doctor.TRIALS] + [doctor.TWO]
    for title in titles:
        assert title in done.output
    assert "fails" not in done.output
    for title in ("training in fp32", "inference engine in fp32", "training twice", doctor.TWO):
        assert any(title in line and "works" in line for line in done.output.splitlines()), title
    *_, last = lines = done.output.splitlines()
    assert len(lines) < 24  # one screen
    told = [float(found) for line in lines for found in re.findall(r"works +([\d.]+) s", line)]
    assert len(told) == sum("works" in line for line in lines)
    total, start, trials = map(float, re.findall(r"[\d.]+\d", last))
    assert total == pytest.approx(start + trials, abs=0.2)
    assert sum(told) == pytest.approx(trials, abs=0.1 * len(told) + 2)
