"""A training stage on several devices: the same result, and nothing that outlives its process."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from ppcls_core.runtime.versions import _provided
from tasks.dag import STAGES
from tasks.recipe import load_recipe
from tasks.run.processes import check_devices, run_in_processes, trainings
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result, Store
from tests.conftest import PROJECT, TINY
from tests.flows.conftest import run_stages
from tests.support.processes import wait_until

BUILDS = {"paddle": ["paddlepaddle-gpu"], "faiss": ["faiss-cpu"]}
LONG = ["baseline.epochs=60", "baseline.eval_every=100", "run_time.checkpoint_seconds=0.2"]
RUN_BASELINE = """
import sys
from pathlib import Path
from tests.flows.conftest import run_stages
run_stages(Path(sys.argv[1]), sys.argv[2:], until="baseline")
"""


def recipe(*settings: str):
    return load_recipe(str(TINY), settings)


def test_one_device_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle.device.cuda.device_count", None)
    check_devices(recipe())


def test_a_training_on_a_gpu_has_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = Session(recipe(), Store(tmp_path))
    for num, apart in ((0, set[str]()), (1, set(trainings(session.recipe)))):
        monkeypatch.setattr("paddle.device.cuda.device_count", lambda num=num: num)
        ways = {name: session._way_to_run(stage, None) for name, stage in STAGES.items()}
        assert {name for name, way in ways.items() if way is not Stage.run} == apart
        assert all(way.func is run_in_processes for name, way in ways.items() if name in apart)


def test_a_manifest_names_the_cards_and_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tasks.run.session.gpu_names", lambda: ["NVIDIA H100", "Tesla T4"])
    monkeypatch.setattr("ppcls_core.runtime.versions._distributions", lambda: BUILDS)
    monkeypatch.setattr("ppcls_core.runtime.versions.version", lambda name: f"{name} 1")
    monkeypatch.setattr("ppcls_core.runtime.versions._provided", _provided.__wrapped__)
    record = Session(recipe(), Store(tmp_path)).run(STAGES["data"], SilentMonitor()).record
    assert record["gpus"] == ["NVIDIA H100", "Tesla T4"]
    assert {"paddlepaddle-gpu", "faiss-cpu"} <= record["versions"].keys()


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 2)
    check_devices(recipe("run_time.devices=2"))
    with pytest.raises(UserError, match="got 4, but there are only 2 GPUs; take at most"):
        check_devices(recipe("run_time.devices=4"))


def test_a_batch_that_the_devices_cannot_share_is_refused_before_any_work(tmp_path: Path) -> None:
    session = Session(recipe("run_time.devices=2", "fix.accumulate=8"), Store(tmp_path))
    with pytest.raises(UserError, match=r"fix: 2 devices with accumulate 8 .* a multiple of 16"):
        session.run(STAGES["data"], SilentMonitor())
    assert not any(tmp_path.iterdir())


def test_given_weights_are_not_trained(tmp_path: Path) -> None:
    weights = tmp_path / "w.pdparams"
    weights.touch()
    assert "teacher" in trainings(recipe())
    assert "teacher" not in trainings(recipe(f"teacher.weights={weights}", "teacher.train=null"))


class Stopper(SilentMonitor):
    """Asks to stop after some progress; keeps what it is told."""

    def __init__(self, after: int = 10**9) -> None:
        self.left, self.rows, self.notes = after, [], []

    @property
    def stop_requested(self) -> bool:
        return self.left <= 0

    def progress(self, done: int, total: int, unit: str) -> None:
        assert unit == "steps"
        self.left -= 1

    def metrics(self, values) -> None:
        self.rows.append(values)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def has_resumed(self) -> bool:
        """Whether the training said so."""
        return any(note.startswith("resumes at step") for note in self.notes)


def run_baseline(store: Path, monitor: SilentMonitor, *settings: str) -> Result:
    session = Session(recipe(*settings), Store(store))
    for name in ("data", "overlap"):
        result = session.find(STAGES[name]).result
        assert result is not None
        session.accept(result)
    return session.run(STAGES["baseline"], monitor)


def num_workers(store: Path) -> int:
    """Processes of training stages whose standard output is a file of `store`."""
    logs = (link for link in Path("/proc").glob("[0-9]*/fd/1"))
    return sum(f"{store}/" in target for target in _readable(map(os.readlink, logs)))


def _readable(targets):
    while True:
        try:
            yield next(targets)
        except StopIteration:
            return
        except OSError:  # it has ended meanwhile, or is another user's
            continue


@pytest.mark.slow
def test_killed_stopped_and_finished_equals_one_device_in_two_parts(tmp_path: Path) -> None:
    run_stages(tmp_path, until="overlap")
    two = ["run_time.devices=2", *LONG]
    command = [sys.executable, "-W", "ignore", "-c", RUN_BASELINE, str(tmp_path), *two]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, cwd=PROJECT) as parent:
        assert wait_until(lambda: any(tmp_path.glob("baseline/*/checkpoint.pdckpt")), 300)
        assert num_workers(tmp_path) == 2
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: num_workers(tmp_path) == 0, 200)

    stopped = Stopper(after=5)
    with pytest.raises(Interrupted):
        run_baseline(tmp_path, stopped, *two)
    assert stopped.has_resumed()
    assert num_workers(tmp_path) == 0

    finished = Stopper()
    result = run_baseline(tmp_path, finished, *two)
    assert finished.has_resumed()
    assert result.record["devices"] == 2
    names = {path.name for path in result.directory.iterdir()}
    assert names == {"manifest.json", "model.pdparams", "history.json"}

    alone = Stopper()
    one = run_baseline(tmp_path, alone, *LONG, "baseline.accumulate=2")
    assert one.record["devices"] == 1
    assert one.files["model.pdparams"].sha256 == result.files["model.pdparams"].sha256
    assert one.files["history.json"].sha256 == result.files["history.json"].sha256
    assert (one.counts, one.metrics) == (result.counts, result.metrics)
    assert finished.rows == alone.rows[-len(finished.rows) :]
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_what_a_process_dies_of_is_told(tmp_path: Path) -> None:
    run_stages(tmp_path, until="overlap")
    with pytest.raises(
        UserError,
        match=r"(the loss is (nan|inf) at|not finite after) step \d.*: lower `lr`",
    ):
        run_baseline(tmp_path, Stopper(), "run_time.devices=2", "baseline.lr=1e30")
    assert num_workers(tmp_path) == 0
