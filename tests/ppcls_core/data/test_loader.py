"""Batches depend on seed, epoch and images alone; threads end; memory is bounded."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images, loose_images
from ppcls_core.data import kept, loader
from ppcls_core.data.augment import CutMix, RandomCrop, Resize
from ppcls_core.data.batch import Batch
from ppcls_core.data.decode import read_image
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.lost import counts_of
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import CLASSIC
from tests.support.images import image_set

NUM, BAD = 13, (3, 8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """13 images, each its own class; two are cut short."""
    return image_set(tmp_path_factory.mktemp("images"), NUM, num_classes=NUM, bad=BAD)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("good"), NUM, num_classes=NUM)


def train_loader(images, workers=2, augmentation=CLASSIC, batch_size=4, seed=5):
    return TrainLoader(images, batch_size, 32, augmentation, seed, workers)


def load_threads():
    return [t for t in threading.enumerate() if t.name.startswith("map")]


def assert_equal(one, other):
    assert len(one) == len(other)
    for batch, other_batch in zip(one, other, strict=True):
        assert np.array_equal(batch.pixels, other_batch.pixels)
        assert np.array_equal(batch.labels, other_batch.labels)


def test_batches_are_uint8_pixels_and_int64_labels(good):
    batches = list(train_loader(good).batches(0, 0))
    assert len(batches) == train_loader(good).steps_per_epoch == 3
    for batch in batches:
        assert batch.pixels.shape == (4, 3, 32, 32)
        assert batch.pixels.dtype == np.uint8
        assert batch.labels.shape == (4,)
        assert batch.labels.dtype == np.int64


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_batches_depend_neither_on_workers_nor_on_the_first_step(images, epoch):
    expected = list(train_loader(images, workers=1).batches(epoch, 0))
    for workers in (1, 2, 5):
        for first in range(4):
            other = list(train_loader(images, workers).batches(epoch, first))
            assert_equal(expected[first:], other)
            assert [list(b.lost) for b in other] == [list(b.lost) for b in expected[first:]]


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_make_up_the_batch(images, parts):
    whole = list(train_loader(images).batches(1, 1))
    shares = [train_loader(images).batches(1, 1, part=(rank, parts)) for rank in range(parts)]
    joined = [
        Batch(
            *(np.concatenate([getattr(b, name) for b in batches]) for name in ("pixels", "labels")),
            lost={name: why for b in batches for name, why in b.lost.items()},
        )
        for batches in zip(*shares, strict=True)
    ]
    assert_equal(whole, joined)
    assert [batch.lost for batch in joined] == [batch.lost for batch in whole]


def test_every_image_comes_at_most_once_an_epoch_in_another_order_each(good):
    loader = train_loader(good)
    epochs = [np.concatenate([b.labels for b in loader.batches(e, 0)]) for e in range(6)]
    assert all(len(set(labels.tolist())) == 12 for labels in epochs)
    assert len({labels.tobytes() for labels in epochs}) == 6
    left_out = [set(range(NUM)) - set(labels.tolist()) for labels in epochs]
    assert len({tuple(rows) for rows in left_out}) > 1  # not always the same images
    whole = np.concatenate([b.labels for b in train_loader(good, batch_size=NUM).batches(0, 0)])
    assert sorted(whole.tolist()) == list(range(NUM))


def test_seed_changes_order_and_augmentation(good):
    one, other = (list(train_loader(good, seed=seed).batches(0, 0)) for seed in (0, 1))
    assert any(not np.array_equal(a.labels, b.labels) for a, b in zip(one, other, strict=True))


def test_augmentation_of_an_image_differs_by_epoch(good):
    def of_image_0(epoch):
        batches = train_loader(good, batch_size=NUM).batches(epoch, 0)
        return next(batch.pixels[batch.labels == 0][0] for batch in batches)

    assert not np.array_equal(of_image_0(0), of_image_0(1))


def test_without_augmentation_pixels_are_those_of_test_time(images):
    fixed = Preprocess(size=32, short=40)
    for batch in train_loader(images, augmentation=fixed).batches(0, 0):
        for image, row in zip(batch.pixels, batch.labels, strict=True):
            expected = Preprocess(size=32, short=40)(read_image(images.source(row)))
            assert np.array_equal(image, expected)


def test_bad_images_are_replaced_with_their_substitutes_labels_and_counted(images, good):
    bad, whole = train_loader(images, batch_size=NUM), train_loader(good, batch_size=NUM)
    batch, good_batch = next(bad.batches(0, 0)), next(whole.batches(0, 0))
    pixels, labels = batch.pixels, batch.labels
    good_pixels, good_labels = good_batch.pixels, good_batch.labels
    replaced = np.isin(good_labels, BAD)
    assert np.array_equal(labels[~replaced], good_labels[~replaced])
    assert np.array_equal(pixels[~replaced], good_pixels[~replaced])
    assert not np.isin(labels[replaced], BAD).any()
    for image, label in zip(pixels[replaced], labels[replaced], strict=True):
        assert np.array_equal(image, good_pixels[good_labels == label][0])
    assert counts_of(batch.lost) == {"truncated": 2}
    assert sorted(batch.lost) == ["003.jpg", "008.jpg"]


def test_nothing_but_bad_images_is_an_error_that_names_one(tmp_path):
    images = image_set(tmp_path, 3, bad=(0, 1, 2))
    with pytest.raises(UserError, match=r"100 images drawn in a row.*\.jpg; check the list"):
        list(train_loader(images, batch_size=2).batches(0, 0))
    assert load_threads() == []


def test_too_few_images_for_a_batch():
    images = loose_images(Path(), [], [])
    with pytest.raises(UserError, match=r"`batch_size` is 4, but there are only 0 images.*lower"):
        train_loader(images)


@pytest.mark.parametrize("taken", [1, 2])
def test_threads_end_when_the_consumer_breaks_off(good, taken):
    for number, _ in enumerate(train_loader(good, workers=5, batch_size=2).batches(0, 0), 1):
        assert load_threads()
        if number == taken:
            break
    assert load_threads() == []


def test_threads_end_when_the_consumer_raises(good):
    def consume():
        for _ in train_loader(good, workers=5).batches(0, 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert load_threads() == []


def test_at_most_three_batches_are_loaded_ahead(good, monkeypatch):
    loaded = []

    def count(path, needed):
        loaded.append(path)
        return read_image(path, needed)

    monkeypatch.setattr(kept, "read_image", count)
    batches = train_loader(good, workers=5, batch_size=1).batches(0, 0)
    for step in range(6):
        next(batches)
        time.sleep(0.05)
        assert step < len(loaded) <= step + 3
    batches.close()
    assert len(loaded) <= 8


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, NUM - 1), unique=True), st.integers(1, 6), st.integers(1, 3))
def test_read_batches_give_the_items_in_order(images, rows, batch_size, workers):
    def read(row):
        return Preprocess(size=16)(read_image(images.source(row)))

    seen, bad_rows = [], []
    for good, pixels, bad in loader.read_batches(iter(rows), read, batch_size, workers):
        if not good:
            assert pixels.size == 0
            bad_rows += [(row, error.reason) for row, error in bad]
            continue
        assert pixels.shape == (len(good), 3, 16, 16)
        assert pixels.dtype == np.uint8
        assert len(good) + len(bad) <= batch_size
        for row, image in zip(good, pixels, strict=True):
            assert np.array_equal(image, Preprocess(size=16)(read_image(images.source(row))))
        seen += good
        bad_rows += [(row, error.reason) for row, error in bad]
    assert seen == [row for row in rows if row not in BAD]
    assert bad_rows == [(row, "truncated") for row in rows if row in BAD]
    assert load_threads() == []


def test_lost_images_are_counted_by_reason():
    lost = {"a": ("missing", ""), "b": ("empty", ""), "c": ("empty", "")}
    assert counts_of(lost) == {"empty": 2, "missing": 1}


def test_several_epochs_are_the_epochs_one_after_the_other(good: Images) -> None:
    loader = train_loader(good)
    one_by_one = [batch for epoch in (2, 3, 4) for batch in loader.batches(epoch, epoch == 2)]
    assert_equal(one_by_one, list(loader.batches(2, 1, num_epochs=3)))


def test_mixed_batches_depend_neither_on_workers_nor_on_the_first_step(good: Images) -> None:
    def batches(workers: int, first: int) -> list[Batch]:
        loader = TrainLoader(good, 2, 32, (RandomCrop(),), 5, workers, CutMix(alpha=1.0), 2)
        return list(loader.batches(0, first, 2))

    whole, resumed = batches(1, 0), batches(3, 1)
    assert len(whole) == len(resumed) + 1
    for want, got in zip(whole[1:], resumed, strict=True):
        for name in ("pixels", "labels", "other_labels", "weight"):
            a, b = getattr(want, name), getattr(got, name)
            np.testing.assert_array_equal(a, b, strict=True)
    assert len({batch.weight.tobytes() for batch in whole}) > 1


def test_an_augmentation_of_another_size_is_an_error(good: Images) -> None:
    loader = TrainLoader(good, 2, 32, (Resize(size=48),), 5, 1)
    with pytest.raises(UserError, match="gives images of 48 x 48 pixels, but `image_size` is 32"):
        next(loader.batches(0, 0))


def test_an_image_without_a_stored_output_is_replaced(good: Images) -> None:
    class Store:
        """Outputs of all images but one."""

        def has(self, ids: list[str], view: int) -> np.ndarray:
            return np.array(ids) != good.ids[0]

        def logprobs(self, ids: list[str], view: int) -> np.ndarray:
            assert good.ids[0] not in ids
            return np.full((len(ids), 3), view, np.float32)

    train = replace(train_loader(good, batch_size=NUM), replay=loader.Replay(Store(), 2))
    for epoch, view in enumerate((1, 2, 1)):
        batch = next(train.batches(epoch, 0))
        assert np.array_equal(batch.targets, np.full((NUM, 3), view))
        assert counts_of(batch.lost) == {"unlabelled": 1}
