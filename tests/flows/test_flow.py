"""The flows under Prefect: what its dashboard says of each stage, and of each trial."""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from data_catalog.base.files import read_json
from flows.status import statuses
from ppcls_core.runtime.monitor import Monitor
from tasks.dag import OF_STUDENT
from tasks.recipe import digest_of_recipes, load_recipe, load_recipes
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result, Store
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def home(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSLD_HOME", str(store.parent))
    return store.parent


def run(num_stages: int, **parameters: object) -> tuple[object, dict[str, str]]:
    """(final state of the flow, name of each stage's state)."""
    from flows.ssld import ssld

    state = ssld(**{"recipe": str(TINY), **parameters}, return_state=True)
    runs = task_runs(state, num_stages)
    return state, {task.name: task.state_name or "" for task in runs}


def task_runs(state: Any, number: int) -> list[Any]:
    """The task runs of a flow that ended in `state`, once `number` are there and over."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    only = FlowRunFilter.model_validate({"id": {"any_": [str(state.state_details.flow_run_id)]}})
    end = time.monotonic() + 200
    while time.monotonic() < end:  # task runs reach the server as events, a little later
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=only)
        if len(runs) == number and all(r.state and r.state.is_final() for r in runs):
            return runs
        time.sleep(0.2)
    raise AssertionError(f"{len(runs)} task runs, expected {number}, all over: {runs}")


def test_unchanged_stages_are_cached_and_a_refreshed_one_runs(home: Path) -> None:
    state, states = run(14)
    assert state.is_completed()
    assert state.result() == digest_of_recipes(load_recipes(str(TINY)))  # which it has read
    assert len(states) == 14
    assert set(states.values()) == {"Cached"}
    state, states = run(6, until="select", refresh=["select"])
    assert state.is_completed()
    assert states.pop("select") == "Completed"
    assert set(states.values()) == {"Cached"}
    assert set(states) == {"data", "overlap", "dedup", "teacher", "label"}


def test_a_deleted_artifact_runs_again_under_prefect(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = home.glob("store/select/*/selection.parquet")
    path.unlink()
    rows = {row.stage: row for row in statuses(Session(load_recipe(str(TINY)), Store.default()))}
    _, states = run(14)
    assert rows["select"].detail == "selection.parquet is missing"
    assert f"starts: {rows['select'].detail}" in caplog.text
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


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """By stage that runs: None here, else the first GPU of its own processes."""
    found: dict[str, int | None] = {}
    run_stage = Session.run

    def spy(session: Session, stage: Stage, monitor: Monitor, apart: int | None = None) -> Result:
        found[stage.name] = apart
        return run_stage(session, stage, monitor, apart)

    monkeypatch.setattr(Session, "run", spy)
    return found


def digests(home: Path) -> dict[Path, str]:
    return {path: read_json(path)["digest"] for path in home.glob("store/*/*/manifest.json")}


@pytest.mark.slow
def test_a_training_that_leaves_a_core_runs_beside_another_stage_with_the_same_bits(
    home: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, int | None]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = digests(home)
    state, states = run(5, until="label", refresh=["dedup", "teacher"])
    assert state.is_completed()
    assert places == {"dedup": None, "teacher": 0}
    assert states["label"] == "Cached"
    assert digests(home) == before
    state, states = run(
        4, until="label", settings=["teacher.train.batch_size=1000"], refresh=["dedup"]
    )
    assert state.is_failed()
    assert "only 30 images" in state.message
    assert states["teacher"] == "Failed"


@pytest.mark.parametrize(("cores", "gpus", "teacher"), [(3, 0, 0), (1, 2, 1)])
@pytest.mark.slow
def test_trainings_run_beside_each_other_where_there_is_room(  # noqa: PLR0913 - fixtures
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: dict[str, int | None],
    cores: int,
    gpus: int,
    teacher: int,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    monkeypatch.setattr("flows.ssld.num_gpus", lambda: gpus)
    before = digests(home)
    state, _ = run(12, until="evaluate", refresh=["dedup", "teacher", "baseline"])
    assert state.is_completed()
    assert places == {"dedup": None, "teacher": teacher, "baseline": 0}
    if not gpus:  # the baseline, for which nothing waits, beside distill: till then no core is idle
        assert list(places)[-1] == "baseline"
    assert digests(home) == before


@pytest.mark.slow
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


# `ssld/search`: a task a trial, the same study as on the command line.

JOB = """
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}
num_classes: 3
train: {list: train.txt, root: images}
val: {list: train.txt, root: images}
preprocess: {size: 32}
training: {epochs: 1, batch_size: 4, image_size: 32, lr: 0.05}
workers: 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for row in range(8):
        cv2.imwrite(f"images/{row}.png", rng.integers(0, 256, (40, 40, 3), np.uint8))
    Path("train.txt").write_text("".join(f"{row}.png {row % 3}\n" for row in range(8)))
    Path("job.yaml").write_text(JOB)
    Path("space.yaml").write_text("training.lr: [0.1, 0.01, 1e30]")
    return tmp_path


@pytest.mark.slow
def test_a_search_is_a_flow_with_a_task_a_trial_and_goes_on(folder: Path) -> None:
    from flows.search import search
    from ppcls_core.jobs.tuning.settings import SearchSettings

    how = SearchSettings(sampler="grid")
    overrides = ["training.schedule={name: CosineWarmup, warmup_epochs: 0}"]
    state = search("job.yaml", "space.yaml", overrides, how, 2, return_state=True)
    assert state.is_completed(), state.message
    assert "3 points tried" in state.message
    assert sorted(run.state_name for run in task_runs(state, 3)) == ["Complete"] * 2 + ["Failed"]
    assert (folder / "output/ResNet18_vd/search/search.html").is_file()
    again = search("job.yaml", "space.yaml", overrides, how, return_state=True)
    assert again.is_completed()
    assert task_runs(again, 0) == []


@pytest.mark.slow
def test_a_mistake_in_a_search_fails_the_run_with_its_message(folder: Path) -> None:
    from flows.search import search

    Path("space.yaml").write_text("training.lrr: [0.1, 0.01]")
    state = search("job.yaml", "space.yaml", return_state=True)
    assert state.is_failed()
    assert "unknown setting 'training.lrr'" in state.message
