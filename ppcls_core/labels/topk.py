"""The k best of each of many classes out of a stream, exactly, in O(classes x k) memory.

One table holds the candidates of all classes. It is pruned to k a class whenever it is a quarter
longer; from then on a class takes only what beats its k-th best, so that ever less gets in. Among
equal priorities the lower image id is better; ids are compared only where that decides. They stay
Arrow strings: millions of Python's would take gigabytes.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SLACK = 1.25  # how far the table grows over classes x k
_HALF, _NONE = np.uint64(32), np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Candidates:
    """`images[rows[i]]` for `classes[i]` with `priorities[i]`, the higher the better.

    `images` have a column `image_id` (large_string) and may have others.
    """

    images: pa.Table
    rows: np.ndarray  # int32
    classes: np.ndarray  # int32
    priorities: np.ndarray  # uint32

    def of(self, keep: np.ndarray) -> Candidates:
        """Those that are true in `keep`, with the images that they need."""
        rows = self.rows[keep]
        used = np.zeros(self.images.num_rows, bool)
        used[rows] = True
        places = np.cumsum(used, dtype=np.int32) - 1
        images = self.images.filter(pa.array(used)).combine_chunks()
        return Candidates(images, places[rows], self.classes[keep], self.priorities[keep])


class TopK:
    """The best so far; what they are depends on what was added, not on the order."""

    def __init__(self, num_classes: int, k: int) -> None:
        assert k > 0
        self._num_classes, self._k = num_classes, k
        self._parts: list[Candidates] = []
        # What a candidate must beat once a class has k: a priority and, among its equals, an id.
        self._floor = np.full(num_classes, -1, np.int64)
        self._last = pa.nulls(num_classes, pa.large_string())

    def add(self, offered: Candidates) -> None:
        """Offer candidates; no image may be in two rows of `images` or in two calls."""
        floor = self._floor[offered.classes]
        better = offered.priorities > floor
        tied = np.flatnonzero(offered.priorities == floor)
        if len(tied):
            ids = offered.images["image_id"].take(pa.array(offered.rows[tied]))
            lower = pc.less(ids, self._last.take(pa.array(offered.classes[tied])))
            better[tied] = lower.to_numpy()
        self._parts.append(offered.of(better))
        if sum(len(part.rows) for part in self._parts) > _SLACK * self._num_classes * self._k:
            self._prune()

    def result(self) -> Candidates | None:
        """The k best of each class in no order; None where nothing was added."""
        if self._parts:
            self._prune()
        return self._parts[0] if self._parts else None

    def _prune(self) -> None:
        parts, self._parts = self._parts, []
        every = _concatenated(parts)
        parts.clear()
        self._parts = [every.of(self._among_best(every))]

    def _among_best(self, every: Candidates) -> np.ndarray:
        """bool: the k best of each class; sets what the next must beat."""
        keys = every.classes.astype(np.uint64) << _HALF
        keys |= ~every.priorities  # ascending: by class, best first
        ordered = np.sort(keys)
        starts = np.searchsorted(ordered, np.arange(self._num_classes, dtype=np.uint64) << _HALF)
        full = np.diff(starts, append=len(keys)) >= self._k
        bounds = np.full(self._num_classes, _NONE)  # key of the k-th best
        bounds[full] = ordered[starts[full] + self._k - 1]
        room = starts + self._k - np.searchsorted(ordered, bounds)  # for keys equal to the bound
        del ordered
        bound = bounds[every.classes]
        keep, at = keys <= bound, np.flatnonzero(keys == bound)
        ids = every.images["image_id"].take(pa.array(every.rows[at])).combine_chunks()
        order = ranked(every.classes[at], ids)
        at, ids = at[order], ids.take(pa.array(order))
        classes = every.classes[at]
        ranks = np.arange(len(at)) - np.searchsorted(classes, classes)
        keep[at[ranks >= room[classes]]] = False
        is_last = ranks == room[classes] - 1
        last = np.zeros(self._num_classes, np.int64)
        last[classes[is_last]] = np.flatnonzero(is_last)
        self._floor[full] = ~bounds[full].astype(np.uint32)
        self._last = ids.take(pa.array(last, mask=~full))
        return keep


def ranked(groups: np.ndarray, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64: the order by group and id."""
    table = pa.table({"group": groups, "id": ids})
    return pc.sort_indices(table, [("group", "ascending"), ("id", "ascending")]).to_numpy()


def _concatenated(parts: list[Candidates]) -> Candidates:
    firsts = np.cumsum([0, *(part.images.num_rows for part in parts)])
    return Candidates(
        pa.concat_tables([part.images for part in parts]).combine_chunks(),
        np.concatenate(
            [part.rows + np.int32(first) for part, first in zip(parts, firsts, strict=False)]
        ),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.priorities for part in parts]),
    )
