"""The flow under Prefect: what its dashboard says of each stage."""

import time
from pathlib import Path

import pytest
import yaml

from data_catalog.base.files import read_json
from ppcls_core.runtime.monitor import Monitor
from tasks.dag import OF_STUDENT
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def home(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSLD_HOME", str(store.parent))
    return store.parent


def run(num_stages: int, **parameters: object) -> tuple[object, dict[str, str]]:
    """(final state of the flow, name of each stage's state)."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    from flows.ssld import ssld

    state = ssld(**{"recipe": str(TINY), **parameters}, return_state=True)
    only = FlowRunFilter.model_validate({"id": {"any_": [str(state.state_details.flow_run_id)]}})
    end = time.monotonic() + 30
    while time.monotonic() < end:  # task runs reach the server as events, a little later
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=only)
        if len(runs) == num_stages and all(r.state and r.state.is_final() for r in runs):
            break
        time.sleep(0.2)
    return state, {task.name: task.state_name or "" for task in runs}


def test_unchanged_stages_are_cached_and_a_refreshed_one_runs(home: Path) -> None:
    state, states = run(14)
    assert state.is_completed()
    assert len(states) == 14
    assert set(states.values()) == {"Cached"}
    state, states = run(6, until="select", refresh=["select"])
    assert state.is_completed()
    assert states.pop("select") == "Completed"
    assert set(states.values()) == {"Cached"}
    assert set(states) == {"data", "overlap", "dedup", "teacher", "label"}


def test_a_deleted_artifact_runs_again_under_prefect(home: Path) -> None:
    (path,) = home.glob("store/select/*/selection.parquet")
    path.unlink()
    _, states = run(14)
    assert {name for name, state in states.items() if state == "Completed"} == {"select"}
    assert path.is_file()


def test_a_mistake_fails_the_run_with_its_message_alone(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, states = run(0, settings=["selct.k=3"])
    assert state.is_failed()
    assert "unknown setting 'selct'" in state.message
    assert states == {}
    state, states = run(4, settings=["teacher.train.batch_size=1000"])
    assert state.is_failed()
    assert "only 30 images" in state.message
    assert states["teacher"] == "Failed"
    assert "Traceback" not in caplog.text


def test_a_training_that_leaves_a_core_runs_beside_another_stage_with_the_same_bits(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = {path: read_json(path)["digest"] for path in home.glob("store/*/*/manifest.json")}
    beside: list[tuple[str, bool]] = []
    run_stage = Session.run

    def spy(session: Session, stage: Stage, monitor: Monitor, apart: bool = False) -> Result:
        beside.append((stage.name, apart))
        return run_stage(session, stage, monitor, apart)

    monkeypatch.setattr(Session, "run", spy)
    state, states = run(5, until="label", refresh=["dedup", "teacher"])
    assert state.is_completed()
    assert sorted(beside) == [("dedup", False), ("teacher", True)]
    assert states["label"] == "Cached"
    assert {path: read_json(path)["digest"] for path in before} == before
    state, states = run(4, settings=["teacher.train.batch_size=1000"], refresh=["dedup"])
    assert state.is_failed()
    assert "only 30 images" in state.message
    assert states["teacher"] == "Failed"


def test_what_students_have_in_common_runs_once(home: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(TINY.read_text())
    recipe["data"] = dict.fromkeys(recipe["data"], str(TINY.with_name("few.yaml")))
    recipe["students"] = {"same": {}, "narrow": {"student": {"spec": {"width": 2}}}}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(recipe))
    state, states = run(22, recipe=str(path))
    assert state.is_completed()
    made = {name for name, state in states.items() if state == "Completed"}
    of_narrow = {f"{stage} of two-narrow" for stage in OF_STUDENT - {"views"}}
    assert made == of_narrow | {"report of two-same"}
    assert set(states) - made == {
        *("data", "overlap", "dedup", "teacher", "label", "select", "views of two-narrow"),
        *(f"{stage} of two-same" for stage in OF_STUDENT - {"report"}),
    }
    _, states = run(8, recipe=str(path), until="views", refresh=["views"])
    assert states["views of two-narrow"] == "Completed"
    assert states["views of two-same"] == "Cached"  # the same views, made anew a moment ago
