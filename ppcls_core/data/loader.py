"""Batches of images by threads: OpenCV releases the GIL, and a kill leaves no orphan process.

What a batch holds depends only on (seed, epoch, image id), never on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from data_catalog.config import UserError
from data_catalog.manifest import Manifest, Roots
from ppcls_core.data.augment import BatchOperator, Operator, sized
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.data.transforms import Preprocess, needed, train_transform
from ppcls_core.randomness import generator, seed_of

K = TypeVar("K")
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
    """Images that could not be read, each with its reason, in the order of the batches."""

    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (reason, detail)

    def add(self, image_id: str, error: BadImage) -> None:
        self.reasons[image_id] = (error.reason, error.detail)

    def counts(self) -> dict[str, int]:
        """Number of images by reason, sorted."""
        names = sorted(reason for reason, _ in self.reasons.values())
        return {name: names.count(name) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class _Sample:
    """An image of a training batch, and the bad ones in whose place it is."""

    row: int
    pixels: np.ndarray
    rejected: list[tuple[str, BadImage]]


@dataclass
class TrainLoader:
    """Shuffled, augmented batches; the last images that do not fill a batch are left out."""

    images: ImageSet
    batch_size: int
    image_size: int
    augmentation: Sequence[Operator] | Preprocess  # test-time preprocessing: in Fix
    seed: int
    workers: int
    mix: BatchOperator | None = None
    epochs: int = 1  # of the whole training, for what changes with its progress
    rejected: Rejections = field(default_factory=Rejections)

    def __post_init__(self) -> None:
        operators = () if isinstance(self.augmentation, Preprocess) else self.augmentation
        self._operators = sized(operators, self.image_size)
        if len(self.images) < self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, but there are only {len(self.images)} images to "
                "train on: lower it to at most that number"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batches(
        self, epoch: int, first_step: int, num_epochs: int = 1
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """(uint8 [N, 3, S, S], int64 labels [N]) of each step, from `first_step` of `epoch` on.

        With `mix` also (int64 labels [N] of the images mixed in, float32 [N] share of the first).
        Over several epochs the threads go on loading while an epoch is closed and validated.
        """
        rows, step = self._rows(epoch, first_step, num_epochs), epoch * self.steps_per_epoch
        for batch in _prefetch(rows, self._load, self.workers):
            # Here, not in the threads, which are ahead: what a checkpoint holds must not vary.
            for image_id, error in (bad for sample in batch for bad in sample.rejected):
                self.rejected.add(image_id, error)
            pixels = np.stack([sample.pixels for sample in batch])
            labels = self.images.labels[[sample.row for sample in batch]].astype(np.int64)
            yield self._mixed(pixels, labels, step + first_step)
            step += 1

    def _mixed(self, pixels: np.ndarray, labels: np.ndarray, step: int) -> tuple[np.ndarray, ...]:
        if self.mix is None:
            return pixels, labels
        mixed = self.mix(pixels, labels, generator(self.seed, step, "mix"))
        return mixed.pixels, mixed.labels_a, mixed.labels_b, mixed.weight

    def _rows(
        self, epoch: int, first_step: int, num_epochs: int
    ) -> Iterator[list[tuple[int, int]]]:
        """(epoch, row) of each image of each batch."""
        for number in range(epoch, epoch + num_epochs):
            order = generator(self.seed, number, "order").permutation(len(self.images)).tolist()
            for step in range(first_step if number == epoch else 0, self.steps_per_epoch):
                start = step * self.batch_size
                yield [(number, row) for row in order[start : start + self.batch_size]]

    def _load(self, place: tuple[int, int]) -> _Sample:
        """The image; a bad one is replaced by one that depends on it and the epoch alone."""
        epoch, row = place
        rejected: list[tuple[str, BadImage]] = []
        for attempt in range(100):
            image_id = self.images.ids[row]
            try:
                return _Sample(row, self._pixels(row, epoch), rejected)
            except BadImage as error:
                rejected.append((image_id, error))
                row = seed_of(self.seed, epoch, image_id, attempt) % len(self.images)
        raise UserError(
            f"100 images drawn in a row cannot be read, the last: {self.images.paths[row]}; "
            "check the data set's root"
        )

    def _pixels(self, row: int, epoch: int) -> np.ndarray:
        """uint8 [3, S, S] of an image. Raises BadImage."""
        path = self.images.paths[row]
        if isinstance(self.augmentation, Preprocess):
            return self.augmentation(read_image(path))
        fresh = partial(generator, self.seed, epoch, self.images.ids[row])
        image = read_image(path, lambda shape: needed(self._operators, shape, fresh))
        pixels = train_transform(image, self._operators, fresh(), epoch / self.epochs)
        self._check_size(pixels)
        return pixels

    def _check_size(self, pixels: np.ndarray) -> None:
        if pixels.shape[1:] != (self.image_size, self.image_size):
            raise UserError(
                f"the augmentation gives images of {pixels.shape[1]} x {pixels.shape[2]} pixels, "
                f"but image_size is {self.image_size}: let it have a RandomCrop, or a Resize and "
                "a CenterCrop, of that size"
            )


def test_batches(
    images: ImageSet, rows: Sequence[int], batch_size: int, preprocess: Preprocess, workers: int
) -> Iterator[tuple[list[int], np.ndarray, dict[str, BadImage]]]:
    """Batches in order: (readable rows [n], uint8 [n, 3, S, S], bad images by id), n >= 0."""

    def load(row: int) -> np.ndarray | BadImage:
        try:
            return preprocess(read_image(images.paths[row]))
        except BadImage as error:
            return error

    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for chunk, loaded in zip(chunks, _prefetch(chunks, load, workers), strict=True):
        pairs = list(zip(chunk, loaded, strict=True))
        bad = {images.ids[row]: x for row, x in pairs if isinstance(x, BadImage)}
        good = {row: x for row, x in pairs if not isinstance(x, BadImage)}
        pixels = np.array(list(good.values()), np.uint8)
        yield list(good), pixels.reshape(-1, 3, preprocess.size, preprocess.size), bad


def _prefetch(
    batches: Iterable[Sequence[K]], load: Callable[[K], T], workers: int
) -> Iterator[list[T]]:
    """`[load(x) for x in batch]` of each batch, in order, two batches ahead of the consumer."""
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    pending: deque[list[Future]] = deque()
    try:
        for batch in batches:
            pending.append([pool.submit(load, item) for item in batch])
            if len(pending) > 2:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
