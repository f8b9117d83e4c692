"""Ordered maps over threads: the same results for any number of workers, few begun, prompt ends."""

from __future__ import annotations

import threading
import time

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.threads import AHEAD
from ppcls_core.runtime.threads import BATCHES_AHEAD, map_batches, map_threads

BATCHES = st.lists(st.lists(st.integers(), min_size=1, max_size=5), max_size=8)


def map_workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("map")]


@settings(max_examples=40, deadline=None)
@given(BATCHES, st.integers(1, 4), st.integers(1, 9))
def test_results_come_in_order_for_any_number_of_workers(batches, workers, ahead):
    items = [item for batch in batches for item in batch]
    assert list(map_threads(lambda x: -x, items, workers, ahead)) == [-x for x in items]
    assert list(map_batches(lambda x: -x, iter(batches), workers)) == [
        [-x for x in batch] for batch in batches
    ]
    assert map_workers() == []


def test_items_are_taken_and_begun_only_so_far_ahead():
    taken = []
    results = map_threads(lambda x: x, (taken.append(x) or x for x in range(100)), 2)
    for number in range(20):
        assert next(results) == number
        assert len(taken) == AHEAD * 2 + number + 1
    results.close()
    batches = map_batches(lambda x: x, ([n] * 3 for n in range(100)), 2)
    next(batches)
    batches.close()
    assert map_workers() == []


def test_batches_begun_ahead_are_few():
    begun = []
    batches = map_batches(begun.append, ([n] * 3 for n in range(100)), 5)
    for number in range(1, 10):
        next(batches)
        time.sleep(0.02)
        assert 3 * number <= len(begun) <= 3 * (number + BATCHES_AHEAD)
    batches.close()


def test_an_error_comes_in_its_place_and_ends_the_threads():
    def fail_at_5(x: int) -> int:
        if x == 5:
            raise KeyError(x)
        return x

    seen = []
    with pytest.raises(KeyError):
        for result in map_threads(fail_at_5, range(100), 3):
            seen.append(result)
    assert seen == [0, 1, 2, 3, 4]
    assert map_workers() == []


def test_what_is_not_begun_is_dropped_when_the_caller_stops():
    begun = []
    for _ in map_threads(lambda x: (begun.append(x), time.sleep(0.2)), range(1000), 1, 50):
        break
    assert len(begun) < 50  # all that were asked for take ten seconds
    assert map_workers() == []


def test_opencv_has_no_threads_of_its_own_meanwhile():
    assert set(map_threads(lambda _: cv2.getNumThreads(), range(8), 4)) == {1}
