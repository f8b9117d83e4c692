"""The flow `ssld/search`: a task a trial, the same study as on the command line."""

from pathlib import Path

import cv2
import numpy as np
import pytest

JOB = """
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}
num_classes: 3
train: {list: train.txt, root: images}
val: {list: train.txt, root: images}
preprocess: {size: 32}
training: {epochs: 1, batch_size: 4, image_size: 32, lr: 0.05}
workers: 1
"""


pytestmark = pytest.mark.usefixtures("prefect_server")


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


def task_states(state: object, number: int) -> list[str]:
    """The names of the states of the run's tasks, once there are `number`."""
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    only = FlowRunFilter.model_validate({"id": {"any_": [str(state.state_details.flow_run_id)]}})
    end = time.monotonic() + 30
    while time.monotonic() < end:  # task runs reach the server as events, a little later
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=only)
        if len(runs) == number and all(run.state and run.state.is_final() for run in runs):
            break
        time.sleep(0.2)
    return sorted(run.state_name or "" for run in runs)


def test_a_search_is_a_flow_with_a_task_a_trial_and_goes_on(folder: Path) -> None:
    from flows.search import search
    from ppcls_core.jobs.tuning.settings import SearchSettings

    how = SearchSettings(sampler="grid")
    overrides = ["training.schedule={name: CosineWarmup, warmup_epochs: 0}"]
    state = search("job.yaml", "space.yaml", overrides, how, 2, return_state=True)
    assert state.is_completed(), state.message
    assert "3 points tried" in state.message
    assert task_states(state, 3) == ["Complete", "Complete", "Failed"]
    assert (folder / "output/ResNet18_vd/search/search.html").is_file()
    again = search("job.yaml", "space.yaml", overrides, how, return_state=True)
    assert again.is_completed()
    assert task_states(again, 0) == []


def test_a_mistake_fails_the_run_with_its_message(folder: Path) -> None:
    from flows.search import search

    Path("space.yaml").write_text("training.lrr: [0.1, 0.01]")
    state = search("job.yaml", "space.yaml", return_state=True)
    assert state.is_failed()
    assert "unknown setting 'training.lrr'" in state.message
