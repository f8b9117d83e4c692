"""Image work on threads: OpenCV, numpy and faiss release the lock while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2

T = TypeVar("T")
R = TypeVar("R")


def map_threads(
    function: Callable[[T], R], items: Iterable[T], workers: int, on_done: Callable[[], None]
) -> list[R]:
    """`function` of each item, in the items' order, computed by `workers` threads.

    `on_done` is called in this thread once an item. When it or `function` raises, items not yet
    begun are dropped, those begun are waited for, and the error goes on to the caller.
    """
    results: list[R] = []
    with ThreadPoolExecutor(workers, "dedup", initializer=_one_thread_each) as executor:
        try:
            for future in [executor.submit(function, item) for item in items]:
                results.append(future.result())
                on_done()
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise
    return results


def _one_thread_each() -> None:
    """Images are the unit of parallelism. OpenMP's thread count is a setting of each thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    cv2.setNumThreads(1)
