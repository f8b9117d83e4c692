"""The sources of stages that run beside one another."""

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.run.source import code_hash, modules

NUM_MODULES = 25


class Garbage:
    """Its end lets other threads run, wherever the collector finds it."""

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        for _ in range(200):
            pass


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads that change often, and a collector that is often at work."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(200, 1, 1)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("busy_threads")
def test_sources_are_hashed_in_several_threads() -> None:
    """Of two that parse at once, Python 3.11 may let one fail."""
    codes = [path.read_text() for path in list(modules().values())[:NUM_MODULES]]

    def hash_all(_: int) -> list[str]:
        return [code_hash(code) for code in codes if Garbage()]

    with ThreadPoolExecutor(3) as threads:
        first, *others = threads.map(hash_all, range(3))
    assert all(other == first for other in others)
