"""The embedded data set: regions that share no pixel, and files that depend on their key alone."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError, parse
from data_catalog.photo_patches import (
    BAD,
    CLASSES,
    POOL,
    TRAIN,
    TRANSFORMS,
    VAL,
    PhotoPatches,
    PhotoPatchesConfig,
    blocks,
    cut,
    photo_folder,
    piece,
)
from ppcls_core.data.decode import BadImage, read_image

needs_photos = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed"
)
SMALL = {"image_size": 48, "train_per_class": 1, "val_per_class": 2, "pool_per_class": 1}
SMALL |= {"pool_other": 7, "planted": 16, "num_bad": 5}
SHAPES = st.tuples(st.integers(60, 400), st.integers(60, 400))
SEEDS = st.integers(0, 2**32)


def dataset(**options):
    settings = {"kind": "photo_patches", **SMALL, **options}
    return PhotoPatches("photo_patches", parse(PhotoPatchesConfig, settings, "test"))


def build(out, **options):
    return dataset(**options).build(out, lambda done, total: None)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@settings(deadline=None)
@given(SHAPES)
def test_regions_share_no_pixel_and_leave_none_out(shape):
    photo = np.full((*shape, 3), 9, np.uint8)
    for region in (TRAIN, VAL, POOL):
        for block in blocks(photo, region):
            assert (block == 9).all()  # not written before by another region
            block[:] = region
    assert set(np.unique(photo)) == {TRAIN, VAL, POOL}
    for region in (TRAIN, VAL, POOL):  # in every third of the rows and of the columns
        at = photo[..., 0] == region
        thirds = [np.array_split(at, 3, axis) for axis in (0, 1)]
        assert all(part.any() for axis in thirds for part in axis)


@settings(max_examples=60, deadline=None)
@given(SHAPES, SEEDS, st.sampled_from([(TRAIN,), (VAL,), (TRAIN, POOL)]))
def test_a_piece_never_reads_another_region(shape, seed, regions):
    photo = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    changed = ~photo
    for old, new in zip(blocks(photo, *regions), blocks(changed, *regions), strict=True):
        new[:] = old
    key = [seed, 1]
    assert (piece(photo, regions, 48, key) == piece(changed, regions, 48, key)).all()


@settings(max_examples=100, deadline=None)
@given(SHAPES, SEEDS, st.sampled_from([48, 128]))
def test_a_square_never_reaches_over_the_edge_of_its_block(shape, seed, size):
    block = np.full((shape[0] // 3, shape[1] // 3, 3), 255, np.uint8)
    square = cut(block, size, np.random.default_rng(seed))
    assert square.shape == (size, size, 3)
    assert square.min() == 255  # what lies outside is black


def test_squares_differ_in_place_scale_and_angle():
    y, x = np.mgrid[0:200, 0:200].astype(np.uint8)
    block = np.stack([x, y, x], axis=2)
    rng = np.random.default_rng(0)
    squares = [cut(block, 48, rng).astype(float) for _ in range(50)]
    across = np.array([(s[24, 46] - s[24, 1])[:2] for s in squares])  # source pixels per 45
    sides, angles = np.hypot(*across.T), np.rad2deg(np.arctan2(across[:, 1], across[:, 0]))
    assert sides.max() > 1.8 * sides.min()
    assert angles.min() < -20
    assert angles.max() > 20
    assert np.abs(angles).max() < 32


@needs_photos
def test_a_teacher_may_have_pieces_of_its_own(tmp_path):
    assert build(tmp_path / "without").teacher is None
    teacher = build(tmp_path, teacher_per_class=3).teacher
    assert np.bincount(teacher.labels).tolist() == [3] * len(CLASSES)
    without, found = contents(tmp_path / "without"), contents(tmp_path)
    assert all(found[name] == content for name, content in without.items())
    assert len(set(found.values())) == len(without) + 3 * len(CLASSES)  # none twice


@needs_photos
def test_splits(tmp_path):
    calls = []
    splits = dataset().build(tmp_path, lambda *call: calls.append(call))
    num = len(CLASSES)
    assert [len(s) for s in (splits.train, splits.val, splits.pool)] == [
        num,
        2 * num,
        num + 7 + 16 + 5,
    ]
    assert np.bincount(splits.val.labels).tolist() == [2] * num
    assert set(splits.pool.labels) == {-1}
    assert splits.train.classes == tuple(CLASSES)
    assert calls[-1] == (3 * num + num + 28, 3 * num + num + 28)
    for split in (splits.train, splits.val, splits.pool):
        files = split.sources()
        assert [f.stat().st_size for f in files] == split.table["size"].to_pylist()
    assert all(read_image(f).shape == (48, 48, 3) for f in splits.val.sources())


@needs_photos
def test_rejects_are_one_of_each_kind(tmp_path):
    splits = build(tmp_path)
    reasons = []
    for path in splits.pool.sources():
        try:
            read_image(path)
        except BadImage as error:
            reasons.append(error.reason)
    assert sorted(reasons) == sorted(
        ["truncated", "not_an_image", "empty", "too_small", "decompression_bomb"]
    )
    assert len(BAD) == len(reasons)


@needs_photos
def test_same_settings_same_bytes_and_halves_are_overwritten(tmp_path):
    build(tmp_path / "a")
    (tmp_path / "b/pool").mkdir(parents=True)
    (tmp_path / "b/pool/other_00000.jpg").write_bytes(b"half")
    build(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@needs_photos
def test_more_images_leave_the_earlier_ones_as_they_are(tmp_path):
    build(tmp_path / "few")
    more = {"train_per_class": 2, "val_per_class": 3, "pool_per_class": 2}
    build(tmp_path / "many", **more, pool_other=9, planted=20, num_bad=7)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert few == {name: many[name] for name in few}
    assert len(set(many.values())) >= len(many) - 4  # empty, text and bomb files repeat


@needs_photos
def test_another_seed_gives_other_images(tmp_path):
    build(tmp_path / "a")
    build(tmp_path / "b", seed=1)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    same = {name for name in a if a[name] == b[name]}
    assert same <= {f"pool/bad_{i:05d}.jpg" for i in range(5)}


def likeness(image, other):
    """Correlation of two grey pictures at 16 x 16 pixels."""
    small = [cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA) for p in (image, other)]
    return np.corrcoef(*(p.mean(axis=2).ravel() for p in small))[0, 1]


@needs_photos
def test_planted_copies_resemble_their_val_image(tmp_path):
    splits = build(tmp_path, image_size=96, planted=32, val_per_class=4)
    truth = splits.planted.to_pylist()
    assert [t["transform"] for t in truth] == list(TRANSFORMS) * 4
    assert {t["val_id"] for t in truth} <= set(splits.val.ids)
    assert len({t["val_id"] for t in truth}) == 32
    for row in truth:
        val, copy = read_image(tmp_path / row["val_id"]), read_image(tmp_path / row["pool_id"])
        if row["transform"] == "mirror":
            copy = copy[:, ::-1]
        if row["transform"] in ("jpeg30", "half", "mirror", "colour", "blur"):
            assert likeness(val, copy) > 0.9, row
        assert (tmp_path / row["val_id"]).read_bytes() != (tmp_path / row["pool_id"]).read_bytes()


@needs_photos
def test_fingerprint_follows_the_settings():
    prints = {
        dataset(**o).fingerprint() for o in ({}, {"seed": 1}, {"planted": 3}, {"image_size": 64})
    }
    assert len(prints) == 4
    assert dataset().fingerprint() == dataset().fingerprint()


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ssld\[demo\]'"):
        dataset().fingerprint()


@needs_photos
def test_a_photograph_that_is_not_there(monkeypatch):
    monkeypatch.setattr("data_catalog.photo_patches.OTHERS", ("gone.png",))
    with pytest.raises(UserError, match=r"no gone\.png in"):
        photo_folder()


@needs_photos
def test_an_interrupt_does_not_wait_for_all_images(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset(pool_per_class=500).build(tmp_path, stop)
    assert len(list(Path(tmp_path).rglob("*.jpg"))) < 500
