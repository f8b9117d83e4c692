"""Batches of images by threads: OpenCV releases the GIL, and a kill leaves no orphan process.

What a batch holds depends only on (seed, epoch, image id), never on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from data_catalog.config import UserError
from data_catalog.manifest import Manifest, Roots
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.data.transforms import Augmentation, test_transform, train_transform
from ppcls_core.randomness import generator, seed_of

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSet:
    """The images of a manifest on this machine; rows are positions in the manifest."""

    paths: Sequence[Path]
    ids: Sequence[str]
    labels: np.ndarray  # int32 [rows], -1 unknown

    def __len__(self) -> int:
        return len(self.paths)

    @staticmethod
    def of(manifest: Manifest, roots: Roots) -> ImageSet:
        """The images of `manifest`, found under `roots`."""
        return ImageSet(manifest.resolve(roots), manifest.ids, manifest.labels)


@dataclass
class Rejections:
    """Images that could not be read, each with its reason; shared by the worker threads."""

    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (reason, detail)

    def add(self, image_id: str, error: BadImage) -> None:
        self.reasons[image_id] = (error.reason, error.detail)

    def counts(self) -> dict[str, int]:
        """Number of images by reason, sorted."""
        names = sorted(reason for reason, _ in self.reasons.values())
        return {name: names.count(name) for name in dict.fromkeys(names)}


@dataclass
class TrainLoader:
    """Shuffled, augmented batches; the last images that do not fill a batch are left out."""

    images: ImageSet
    batch_size: int
    image_size: int
    augmentation: Augmentation | None  # None: test-time preprocessing (Fix)
    seed: int
    workers: int
    rejected: Rejections = field(default_factory=Rejections)

    def __post_init__(self) -> None:
        if len(self.images) < self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, but there are only {len(self.images)} images to "
                "train on: lower it to at most that number"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batches(self, epoch: int, first_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(uint8 [N, 3, S, S], int64 labels [N]) of the epoch's steps from `first_step` on."""
        order = generator(self.seed, epoch, "order").permutation(len(self.images))
        rows = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
        load = lambda row: self._load(int(row), epoch)  # noqa: E731
        for batch in _prefetch(rows[first_step:], load, self.workers):
            chosen = np.array([row for row, _ in batch])
            pixels = np.stack([image for _, image in batch])
            yield pixels, self.images.labels[chosen].astype(np.int64)

    def _load(self, row: int, epoch: int) -> tuple[int, np.ndarray]:
        """(row, pixels); a bad image is replaced by one that depends on it and the epoch alone."""
        for attempt in range(100):
            image_id = self.images.ids[row]
            rng = generator(self.seed, epoch, image_id)
            try:
                image = read_image(self.images.paths[row])
            except BadImage as error:
                self.rejected.add(image_id, error)
                row = seed_of(self.seed, epoch, image_id, attempt) % len(self.images)
                continue
            if self.augmentation is None:
                return row, test_transform(image, self.image_size)
            return row, train_transform(image, self.image_size, self.augmentation, rng)
        raise UserError(
            f"100 images drawn in a row cannot be read, the last: {self.images.paths[row]}; "
            "check the data set's root"
        )


def test_batches(
    images: ImageSet, rows: Sequence[int], batch_size: int, image_size: int, workers: int
) -> Iterator[tuple[list[int], np.ndarray, dict[str, BadImage]]]:
    """Batches in order: (readable rows [n], uint8 [n, 3, S, S], bad images by id), n >= 0."""

    def load(row: int) -> np.ndarray | BadImage:
        try:
            return test_transform(read_image(images.paths[row]), image_size)
        except BadImage as error:
            return error

    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for chunk, loaded in zip(chunks, _prefetch(chunks, load, workers), strict=True):
        pairs = list(zip(chunk, loaded, strict=True))
        bad = {images.ids[row]: x for row, x in pairs if isinstance(x, BadImage)}
        good = {row: x for row, x in pairs if not isinstance(x, BadImage)}
        pixels = np.array(list(good.values()), np.uint8)
        yield list(good), pixels.reshape(-1, 3, image_size, image_size), bad


def _prefetch(
    batches: Sequence[Sequence[int]] | np.ndarray, load: Callable[[int], T], workers: int
) -> Iterator[list[T]]:
    """`[load(row) for row in batch]` of each batch, in order, two batches ahead of the consumer."""
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    pending: deque[list[Future]] = deque()
    try:
        for batch in batches:
            pending.append([pool.submit(load, int(row)) for row in batch])
            if len(pending) > 2:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
