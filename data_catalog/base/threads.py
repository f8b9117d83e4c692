"""An ordered map over threads that holds a bounded number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # items begun a worker: what bounds the memory


def map_threads(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`function` of each item, in the items' order, computed by `workers` threads.

    When the caller stops or `function` raises, items not yet begun are dropped and those begun are
    waited for.
    """
    rest = iter(items)
    with ThreadPoolExecutor(workers) as executor:
        begun: deque[Future[R]] = deque(
            executor.submit(function, item) for item in islice(rest, AHEAD * workers)
        )
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(executor.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
