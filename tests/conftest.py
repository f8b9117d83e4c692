"""What all tests share."""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.guard import start_guard

# The same examples in every run, however slow: a failure is the change's, not chance's.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")

PROJECT = Path(__file__).resolve().parent.parent
TINY = PROJECT / "tests" / "flows" / "tiny.yaml"


def others_slow(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Parameters `values`: those that are not in `fast` are for `make test-all`."""
    return [pytest.param(one, marks=() if one in fast else pytest.mark.slow) for one in values]


def pytest_sessionstart() -> None:
    """Also in each worker of xdist."""
    start_guard()
    # A shell's background job ignores SIGINT, which tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache of image contents is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test's commands set in the environment ends with it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def ppcls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CompletedProcess[str]]:
    """`ppcls ARGUMENTS...` in this process, which has imported Paddle already.

    What runs Paddle's inference engine needs a process of its own: the engine leaves its process
    with another number of threads, and its later trainings with other bits.
    """
    from ppcls_core.cli.app import main  # children of tests read this module too

    def run(*arguments: object) -> CompletedProcess[str]:
        words = ["ppcls", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return CompletedProcess(words, int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photographs beside the project; tests that need it skip without it."""
    folder = Path(os.environ.get("SSLD_SHARED", PROJECT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SSLD_SHARED to run this test")
    return folder
