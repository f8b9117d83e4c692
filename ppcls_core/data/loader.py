"""Batches of images by threads: OpenCV releases the GIL, and a kill leaves no orphan process.

What a batch holds depends only on (seed, epoch, image id), never on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from data_catalog.base.config import UserError
from data_catalog.images.manifest import Manifest, Roots
from ppcls_core.data.augment import BatchOperator, Operator
from ppcls_core.data.batch import Batch
from ppcls_core.data.decode import BadImage
from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import AugmentedViews, TestView
from ppcls_core.runtime.randomness import generator, seed_of

if TYPE_CHECKING:
    from ppcls_core.labels.store import LabelStore

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class ImageSet:
    """The images of a manifest on this machine; rows are positions in the manifest."""

    paths: Sequence[Path]
    ids: Sequence[str]
    labels: np.ndarray  # int32 [rows], -1 unknown
    classes: Sequence[str] = ()  # their names, by label

    def __len__(self) -> int:
        return len(self.paths)

    @staticmethod
    def of(manifest: Manifest, roots: Roots) -> ImageSet:
        """The images of `manifest`, found under `roots`."""
        return ImageSet(manifest.resolve(roots), manifest.ids, manifest.labels, manifest.classes)


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


@dataclass(frozen=True)
class Replay:
    """The teacher's stored outputs for the first `num_views` views of each image."""

    store: LabelStore
    num_views: int


@dataclass
class TrainLoader:
    """Shuffled, augmented batches; the last images that do not fill a batch are left out.

    In each epoch an image has another view; with `replay` the views come round again, and the
    teacher's outputs for them are in the batch. A `mix` is then not possible.

    With `part` (r, P) only the r-th of P equal parts of each batch is loaded. `mix` then mixes
    within the part, so its result depends on P, as PaddleClas's depends on the number of cards.
    """

    images: ImageSet
    batch_size: int
    image_size: int
    augmentation: Sequence[Operator] | Preprocess  # test-time preprocessing: in Fix
    seed: int
    workers: int
    mix: BatchOperator | None = None
    epochs: int = 1  # of the whole training, for what changes with its progress
    part: tuple[int, int] = (0, 1)
    replay: Replay | None = None
    rejected: Rejections = field(default_factory=Rejections)

    def __post_init__(self) -> None:
        assert not (self.replay and self.mix)
        if isinstance(self.augmentation, Preprocess):
            self._views = TestView(preprocess=self.augmentation)
        else:
            self._views = AugmentedViews(
                augmentation=tuple(self.augmentation),
                image_size=self.image_size,
                root_seed=self.seed,
                num=self.replay.num_views if self.replay else self.epochs,
            )
        if len(self.images) < self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, but there are only {len(self.images)} images to "
                "train on: lower it to at most that number"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batches(self, epoch: int, first_step: int, num_epochs: int = 1) -> Iterator[Batch]:
        """The batch of each step, of batch_size images or its P-th part, from `first_step` on.

        Over several epochs the threads go on loading while an epoch is closed and validated.
        """
        rows, step = self._rows(epoch, first_step, num_epochs), epoch * self.steps_per_epoch
        for batch in prefetch(rows, self._load, self.workers):
            # Here, not in the threads, which are ahead: what a checkpoint holds must not vary.
            for image_id, error in (bad for sample in batch for bad in sample.rejected):
                self.rejected.add(image_id, error)
            pixels = np.stack([sample.pixels for sample in batch])
            rows_read = [sample.row for sample in batch]
            labels = self.images.labels[rows_read].astype(np.int64)
            at = step + first_step
            if self.replay is not None:
                ids = [self.images.ids[row] for row in rows_read]
                view = self._view(at // self.steps_per_epoch)
                yield Batch(pixels, labels, targets=self.replay.store.logprobs(ids, view))
            elif self.mix is not None:
                mixed = self.mix(pixels, labels, generator(self.seed, at, "mix"))
                yield Batch(mixed.pixels, mixed.labels_a, mixed.labels_b, mixed.weight)
            else:
                yield Batch(pixels, labels)
            step += 1

    def _view(self, epoch: int) -> int:
        """Number of the images' view in an epoch."""
        return (epoch % self.replay.num_views if self.replay else epoch) + 1

    def _rows(
        self, epoch: int, first_step: int, num_epochs: int
    ) -> Iterator[list[tuple[int, int]]]:
        """(epoch, row) of each image of each batch, or of this process's part of it."""
        rank, parts = self.part
        size = self.batch_size // parts
        for number in range(epoch, epoch + num_epochs):
            order = generator(self.seed, number, "order").permutation(len(self.images)).tolist()
            for step in range(first_step if number == epoch else 0, self.steps_per_epoch):
                start = step * self.batch_size + rank * size
                yield [(number, row) for row in order[start : start + size]]

    def _load(self, place: tuple[int, int]) -> _Sample:
        """The image; a bad one is replaced by one that depends on it and the epoch alone."""
        epoch, row = place
        rejected: list[tuple[str, BadImage]] = []
        for attempt in range(100):
            image_id = self.images.ids[row]
            try:
                self._require_label(image_id, epoch)
                return _Sample(row, self._pixels(row, epoch), rejected)
            except BadImage as error:
                rejected.append((image_id, error))
                row = seed_of(self.seed, epoch, image_id, attempt) % len(self.images)
        raise UserError(
            f"100 images drawn in a row cannot be read, the last: {self.images.paths[row]}; "
            "check the data set's root"
        )

    def _require_label(self, image_id: str, epoch: int) -> None:
        """Raise BadImage if it could not be read when it should have been labelled."""
        if self.replay and not self.replay.store.has(image_id, self._view(epoch)):
            raise BadImage("missing", "the teacher has no output for it: it could not be read then")

    def _pixels(self, row: int, epoch: int) -> np.ndarray:
        """uint8 [3, S, S] of an image. Raises BadImage."""
        return self._views.pixels(self.images.paths[row], self.images.ids[row], self._view(epoch))


def read_batches(
    items: Iterable[K], read: Callable[[K], np.ndarray], batch_size: int, workers: int
) -> Iterator[tuple[list[K], np.ndarray, list[tuple[K, BadImage]]]]:
    """Items a batch at a time, in order: (the n readable ones, uint8 [n, 3, S, S], the bad ones).

    `read` gives uint8 [3, S, S] or raises BadImage. Where n is 0 the array is empty.
    """

    def load(item: K) -> tuple[K, np.ndarray | BadImage]:
        try:
            return item, read(item)
        except BadImage as error:
            return item, error

    rest = iter(items)
    for loaded in prefetch(iter(lambda: list(islice(rest, batch_size)), []), load, workers):
        good = [(item, found) for item, found in loaded if not isinstance(found, BadImage)]
        bad = [(item, found) for item, found in loaded if isinstance(found, BadImage)]
        yield [item for item, _ in good], np.array([x for _, x in good], np.uint8), bad


def prefetch(
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
