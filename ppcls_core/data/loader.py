"""Batches of images by threads: OpenCV releases the GIL, and a kill leaves no orphan process.

What a batch holds depends only on (seed, epoch, image id), never on the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.images.columns import Images
from ppcls_core.data.augment import BatchOperator, Operator
from ppcls_core.data.batch import Batch
from ppcls_core.data.decode import BadImage
from ppcls_core.data.kept import KeptImages
from ppcls_core.data.lost import Lost
from ppcls_core.data.pace import Pace
from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import AugmentedViews, TestView
from ppcls_core.runtime.randomness import generator, seed_of
from ppcls_core.runtime.threads import map_batches

K = TypeVar("K")


@dataclass(frozen=True)
class _Sample:
    """An image of a training batch, and the unreadable ones in whose place it is."""

    row: int
    pixels: np.ndarray
    lost: Lost


class TeacherOutputs(Protocol):
    """Stored outputs of a teacher, such as `ppcls_core.labels.store` reads."""

    def has(self, ids: Sequence[str], view: int, /) -> np.ndarray:
        """bool [N]: whether this view of each image was labelled."""
        ...

    def logprobs(self, ids: Sequence[str], view: int, /) -> np.ndarray:
        """float32 [N, C]: the log-probabilities of this view of each image."""
        ...


@dataclass(frozen=True)
class Replay:
    """The teacher's stored outputs for the first `num_views` views of each image.

    0: for the image itself (view 0) alone, taken for each of its views.
    """

    store: TeacherOutputs
    num_views: int


@dataclass(frozen=True)
class TrainLoader:
    """Shuffled, augmented batches; the last images that do not fill a batch are left out.

    In each epoch an image has another view; with `replay` those stored come round again, and the
    teacher's outputs for them are in the batch. A `mix` is then not possible.
    """

    images: Images
    batch_size: int
    image_size: int
    augmentation: Sequence[Operator] | Preprocess  # test-time preprocessing: in Fix
    seed: int
    workers: int
    mix: BatchOperator | None = None
    epochs: int = 1  # of the whole training, for what changes with its progress
    replay: Replay | None = None
    pace: Pace = field(default_factory=Pace, compare=False)

    def __post_init__(self) -> None:
        assert not (self.replay and self.mix)
        if len(self.images) < self.batch_size:
            raise UserError(
                f"`batch_size` is {self.batch_size}, but there are only "
                f"{counted(len(self.images), 'image')} to train on: lower it to at most that number"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self.images) // self.batch_size

    @cached_property
    def views(self) -> TestView | AugmentedViews:
        """How the images are seen in each epoch."""
        if isinstance(self.augmentation, Preprocess):
            return TestView(preprocess=self.augmentation)
        return AugmentedViews(
            augmentation=tuple(self.augmentation),
            image_size=self.image_size,
            root_seed=self.seed,
            num=self._num_views or self.epochs,
        )

    @cached_property
    def _kept(self) -> KeptImages:
        return KeptImages()

    @cached_property
    def _labels(self) -> np.ndarray:
        """int32 [rows], converted once: a table of 14 million takes longer than a batch."""
        return self.images.labels

    def batches(
        self, epoch: int, first_step: int, num_epochs: int = 1, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The batch of each step from `first_step` of `epoch` on.

        Epochs and steps are counted from 0. Over several epochs, `num_epochs` in all, the threads
        go on loading while an epoch is closed and validated. A `part` (r, P) is the r-th of P equal
        parts of each batch. `mix` then mixes within the part, so its result depends on P, as
        PaddleClas's depends on the number of cards.
        """
        places = self._places(epoch, first_step, num_epochs, part)
        first = epoch * self.steps_per_epoch + first_step
        loaded = enumerate(map_batches(self._load, places, self.workers), first)
        found = (self._batch(samples, step) for step, samples in loaded)
        yield from self.pace.of(found, lambda batch: len(batch.labels))

    def _batch(self, samples: Sequence[_Sample], step: int) -> Batch:
        """The batch of one step, counted over all epochs."""
        pixels = np.stack([sample.pixels for sample in samples])
        rows = [sample.row for sample in samples]
        labels = self._labels[rows].astype(np.int64)
        lost = {name: why for sample in samples for name, why in sample.lost.items()}
        if self.replay is not None:
            ids = [self.images.ids[row] for row in rows]
            targets = self.replay.store.logprobs(ids, self._stored(step // self.steps_per_epoch))
            return Batch(pixels, labels, targets=targets, lost=lost)
        if self.mix is not None:
            return replace(self.mix(pixels, labels, generator(self.seed, step, "mix")), lost=lost)
        return Batch(pixels, labels, lost=lost)

    def _view(self, epoch: int) -> int:
        """Number of the images' view in an epoch."""
        return (epoch % self._num_views if self._num_views else epoch) + 1

    def _stored(self, epoch: int) -> int:
        """Number of the view whose stored output is taken for it."""
        return self._view(epoch) if self._num_views else 0

    @property
    def _num_views(self) -> int:
        """Number of views that come round again; 0: they do not."""
        return self.replay.num_views if self.replay else 0

    def _places(
        self, epoch: int, first_step: int, num_epochs: int, part: tuple[int, int]
    ) -> Iterator[list[tuple[int, int]]]:
        """(epoch, row) of each image of each batch, or of a part of it."""
        rank, parts = part
        size = self.batch_size // parts
        for number in range(epoch, epoch + num_epochs):
            order = generator(self.seed, number, "order").permutation(len(self.images))
            for step in range(first_step if number == epoch else 0, self.steps_per_epoch):
                start = step * self.batch_size + rank * size
                yield [(number, row) for row in order[start : start + size].tolist()]

    def _load(self, place: tuple[int, int]) -> _Sample:
        """The image; an unreadable one is replaced by one that its id and the epoch decide."""
        epoch, row = place
        lost: Lost = {}
        for attempt in range(100):  # so many bad ones in a row are a wrong root, no bad luck
            image_id = self.images.ids[row]
            try:
                self._require_label(image_id, epoch)
                pixels = self.views.pixels(
                    self.images.source(row), image_id, self._view(epoch), self._kept.read
                )
                return _Sample(row, pixels, lost)
            except BadImage as error:
                lost[image_id] = (error.reason, error.detail)
                row = seed_of(self.seed, epoch, image_id, attempt) % len(self.images)
        raise UserError(
            f"100 images drawn in a row cannot be read, the last: {self.images.source(row)}; "
            "check the list and the folder that its paths are relative to"
        )

    def _require_label(self, image_id: str, epoch: int) -> None:
        """Raise BadImage if it could not be read when it should have been labelled, or had no
        label."""
        if self.replay and not self.replay.store.has([image_id], self._stored(epoch))[0]:
            raise BadImage("unlabelled", "the teacher has no output for it")


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
    for loaded in map_batches(load, iter(lambda: list(islice(rest, batch_size)), []), workers):
        good = [(item, found) for item, found in loaded if not isinstance(found, BadImage)]
        bad = [(item, found) for item, found in loaded if isinstance(found, BadImage)]
        yield [item for item, _ in good], np.array([x for _, x in good], np.uint8), bad
