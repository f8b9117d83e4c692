"""A finished tiny pipeline, made once, and how to run stages without Prefect."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from ppcls_core.runtime.monitor import SilentMonitor
from tasks.dag import needed_for
from tasks.recipe import load_recipe
from tasks.run.session import Session
from tasks.run.store import Result, Store
from tests.conftest import TINY


def run_stages(
    store: Path, settings: Sequence[str] = (), until: str = "report"
) -> tuple[dict[str, Result], list[str]]:
    """Run the tiny recipe as the flow does, without Prefect: (results, stages that ran)."""
    session = Session(load_recipe(str(TINY), settings), Store(store))
    ran = []
    for stage in needed_for(until):
        result = session.find(stage).result
        if result is not None:
            session.accept(result)
            continue
        session.run(stage, SilentMonitor())
        ran.append(stage.name)
    return session.done, ran


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the tiny recipe is finished, of all test processes; read only."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "finished.lock"):
        run_stages(folder / "finished")  # which another process may have done
    return folder / "finished"


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished store, modification times kept, to change at will."""
    copy = shutil.copytree(finished, tmp_path / "store", symlinks=True, copy_function=shutil.copy2)
    return Path(copy)


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the module's own, with an empty database."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield
