"""Image work on threads: OpenCV, numpy and faiss release the lock while they work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import cv2

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # items begun a worker: what bounds the memory


def map_threads(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`function` of each item, in the items' order, computed by `workers` threads.

    When the caller stops or `function` raises, items not yet begun are dropped and those begun are
    waited for.
    """
    rest = iter(items)
    with ThreadPoolExecutor(workers, "dedup", initializer=_one_thread_each) as executor:
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


def _one_thread_each() -> None:
    """Images are the unit of parallelism. OpenMP's thread count is a setting of each thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    cv2.setNumThreads(1)
