"""Ordered work on threads, which holds a bounded number of items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # items begun a worker: what bounds the memory


def map_threads(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    ahead: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Generator[R, None, None]:
    """`function` of each item, in the items' order, computed by `workers` threads.

    At most `ahead` items (by default AHEAD a worker) are begun before their results are asked for.
    When the caller stops or `function` raises, items not yet begun are dropped and those begun are
    waited for. Items are taken from `items` in the caller's thread. `prepare` is called first in
    each thread.
    """
    rest = iter(items)
    with ThreadPoolExecutor(workers, "map", initializer=prepare) as executor:
        begun: deque[Future[R]] = deque(
            executor.submit(function, item) for item in islice(rest, ahead or AHEAD * workers)
        )
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(executor.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
