"""Index of soft labels by image and view: rows of millions of images in little memory.

An entry is a run: consecutive rows of one image whose views follow one another. Ids are not kept
but their hashes, 96 bits: among 5 million images the chance that any two are confused is 2e-16.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Index:
    """Runs sorted by (hash, check, view): row `row + i` has view `view + i` for i < `size`."""

    hash: np.ndarray  # int64
    check: np.ndarray  # uint32
    view: np.ndarray  # int32
    size: np.ndarray  # int32
    row: np.ndarray  # int64

    @staticmethod
    def of(batches: Iterable[pa.RecordBatch]) -> Index:
        """Index rows of batches with `image_id` and `view`, numbered in their order."""
        parts, num_rows = [_no_runs()], 0
        for batch in batches:
            parts.append(_runs(batch["image_id"], batch["view"].to_numpy(), num_rows))
            num_rows += batch.num_rows
        runs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((runs[2], runs[1], runs[0]))
        return Index(*(column[order] for column in runs))

    def rows(self, ids: Sequence[str], views: np.ndarray) -> np.ndarray:
        """int64 [N]: the row of each image's view, -1 where it is not there."""
        hashes, checks = _hashes(ids)
        place = np.searchsorted(self.hash, hashes)
        found = np.full(len(hashes), -1, np.int64)
        looking = np.arange(len(hashes))
        while len(looking):  # once for most: an image has one run, a hash one image
            looking = looking[place[looking] < len(self.hash)]
            looking = looking[self.hash[place[looking]] == hashes[looking]]
            at = place[looking]
            beyond = views[looking] - self.view[at]
            hit = (self.check[at] == checks[looking]) & (beyond >= 0) & (beyond < self.size[at])
            found[looking[hit]] = (self.row[at] + beyond)[hit]
            looking = looking[~hit]
            place[looking] += 1
        return found

    def first_repeated(self) -> int | None:
        """A row whose image and view another row has too, or None."""
        same = (self.hash[1:] == self.hash[:-1]) & (self.check[1:] == self.check[:-1])
        again = same & (self.view[1:] < self.view[:-1] + self.size[:-1])
        return int(self.row[1:][again][0]) if again.any() else None


def _runs(ids: pa.Array, views: np.ndarray, first_row: int) -> tuple[np.ndarray, ...]:
    """Index's columns for consecutive rows."""
    same = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    goes_on = same & (np.diff(views) == 1)
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(ids), 1), bool), ~goes_on]))
    sizes = np.diff(starts, append=len(ids)).astype(np.int32)
    hashes, checks = _hashes(ids.take(pa.array(starts)).to_pylist())
    return hashes, checks, views[starts], sizes, starts + first_row


def _no_runs() -> tuple[np.ndarray, ...]:
    kinds = (np.int64, np.uint32, np.int32, np.int32, np.int64)
    return tuple(np.empty(0, kind) for kind in kinds)


def _hashes(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N], uint32 [N]) of ids; the first is another in every process."""
    num = len(ids)
    checks = np.fromiter((zlib.crc32(image_id.encode()) for image_id in ids), np.uint32, num)
    return np.fromiter(map(hash, ids), np.int64, num), checks
