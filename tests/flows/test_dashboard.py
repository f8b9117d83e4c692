"""What a run says of its progress: no rate before one can be known, and of the phase alone."""

import logging
from types import SimpleNamespace

import pytest
from prefect.exceptions import FailedRun

from flows import dashboard
from flows.dashboard import StageMonitor


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(dashboard, "time", SimpleNamespace(monotonic=lambda: found.now))
    shown = SimpleNamespace(
        create_progress_artifact=lambda percent, description: "id",
        update_progress_artifact=lambda name, percent, description: None,
    )
    monkeypatch.setattr(dashboard, "artifacts", shown)
    return found


def test_artifacts_of_two_recipes_have_other_keys():
    names = ["demo", "my_Photos.v2", "\u7167\u7247", "a-b"]
    keys = [dashboard._key(name, "dedup-stage") for name in names]
    assert keys == ["demo-dedup-stage", "my-photos-v2-dedup-stage", "recipe-dedup-stage",
                    "a-b-dedup-stage"]  # fmt: skip


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.task_runs"])
def test_a_state_that_the_log_has_told_is_not_told_again(name, caplog):
    def is_logged(message: str) -> bool:
        return bool(logging.getLogger(name).filter(logging.makeLogRecord({"msg": message})))

    told = f'{name} fix: it\'s "full"\nfree space'
    assert is_logged(f"Finished in state Failed({told!r})")
    dashboard.tell_failure(logging.getLogger("told"), told)
    assert caplog.messages == [told]
    assert not is_logged(f"Finished in state Failed({told!r})")
    assert is_logged("Finished in state Failed('of something else')")
    assert not is_logged("Finished in state Crashed('stopped on request')")
    assert not is_logged(
        "Finished in state Crashed('Execution was aborted by an interrupt signal.')"
    )
    assert not is_logged("Crash detected! Execution was aborted by an interrupt signal.")
    assert is_logged("Crash detected! Execution was aborted by something else.")


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.engine", "prefect.task_runs"])
def test_a_failure_is_told_once_without_a_traceback(name):
    """Prefect's engine logs what a run has told of itself again, with the engine's own frames."""

    def is_logged(error: Exception | None) -> bool:
        given = {"exc_info": error and (type(error), error, None)}
        return bool(logging.getLogger(name).filter(logging.makeLogRecord(given)))

    assert not is_logged(FailedRun("recipe mine.yaml: no such file"))
    assert is_logged(ValueError("a defect"))
    assert is_logged(None)
    nothing = logging.makeLogRecord({"exc_info": (None, None, None)})  # is "NoneType: None"
    assert not logging.getLogger(name).filter(nothing)


def test_a_line_of_a_stage_begins_with_its_name() -> None:
    """Prefect's API, whose logs name no stage, gets the same text as the terminal."""
    record = logging.makeLogRecord({"msg": "epoch %d", "args": (2,), "task_run_name": "fix"})
    assert logging.getLogger("prefect.task_runs").filter(record)
    assert record.getMessage() == "fix       epoch 2"


def test_a_rate_is_told_once_it_means_something(clock, caplog):
    caplog.set_level(logging.INFO)
    monitor = StageMonitor(logging.getLogger("progress"), bool)
    clock.now += 60  # processes start
    for done in range(16, 816, 16):  # 32 images a second
        monitor.progress(done, 800, "images")
        clock.now += 0.5
    clock.now += 600  # something else
    for done in range(16, 388, 16):  # 16 a second
        monitor.progress(done, 372, "images")
        clock.now += 1
    assert caplog.messages == [
        "336 of 800 images (42 %), 32.0 images/s, 0:00:14 left",
        "656 of 800 images (82 %), 32.0 images/s, 0:00:04 left",
        "176 of 372 images (47 %), 16.0 images/s, 0:00:12 left",
        "336 of 372 images (90 %), 16.0 images/s, 0:00:02 left",
    ]


def test_the_figures_told_last_stand_beside_the_progress(clock, monkeypatch):
    shown = []
    monkeypatch.setattr(
        dashboard.artifacts,
        "update_progress_artifact",
        lambda name, percent, description: shown.append(description),
    )
    monitor = StageMonitor(logging.getLogger("progress"), bool)
    monitor.progress(1, 10, "images")
    monitor.metrics({"one images/s": 2.5, "two images/s": 3.0})
    clock.now += 5
    monitor.progress(5, 10, "images")
    monitor.progress(2, 2, "canaries")  # another phase
    assert shown == [
        "5 of 10 images (50 %), 0.8 images/s, 0:00:06 left; one images/s 2.5, two images/s 3",
        "2 of 2 canaries (100 %)",
    ]
