"""Ordered work on threads, which holds a bounded number of items; attributes computed there."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, TypeVar

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


class cached_attribute(Generic[R]):
    """`functools.cached_property` as it is from Python 3.12 on: threads compute it at once.

    That of 3.11 has one lock for the attribute of all instances, so that threads which each have an
    image of their own would wait for one another. Two threads that ask the same instance may both
    compute it.
    """

    def __init__(self, function: Callable[[Any], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> R:
        value = self._function(instance)
        vars(instance)[self._function.__name__] = value  # found there first from now on
        return value
