"""Ordered work on threads: OpenCV, numpy, faiss and the network release Python's lock meanwhile."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import TypeVar

import cv2

from data_catalog.base import threads

T = TypeVar("T")
R = TypeVar("R")
BATCHES_AHEAD = 2


def max_threads() -> int:
    """The number of threads that this process may use."""
    return int(os.environ["OMP_NUM_THREADS"])  # set by ppcls_core, or by who started the process


def map_threads(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int | None = None
) -> Generator[R, None, None]:
    """As `data_catalog.base.threads.map_threads`, each image's work being on one thread."""
    return threads.map_threads(function, items, workers, ahead, _one_thread_each)


def map_batches(
    function: Callable[[T], R], batches: Iterable[Sequence[T]], workers: int
) -> Iterator[list[R]]:
    """`[function(x) for x in batch]` of each batch, in order; BATCHES_AHEAD are begun ahead.

    Batches are not empty. Items are the unit of work: the threads go on over the end of a batch.
    """
    rest = iter(batches)
    sizes: deque[int] = deque()

    def items(first: Sequence[T]) -> Iterator[T]:
        for batch in chain([first], rest):
            sizes.append(len(batch))
            yield from batch

    for first in rest:
        ahead = BATCHES_AHEAD * len(first)
        with closing(map_threads(function, items(first), workers, ahead)) as results:
            for result in results:
                yield [result, *islice(results, sizes.popleft() - 1)]


def _one_thread_each() -> None:
    """Items are the unit of parallelism. OpenMP's thread count is a setting of each thread."""
    cv2.setNumThreads(1)
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(1)
