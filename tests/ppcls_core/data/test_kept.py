"""Kept images have the pixels that are read, and take no more memory than is said."""

from functools import partial

import cv2
import numpy as np
import pytest

from ppcls_core.data import kept
from ppcls_core.data.augment import RandomCrop
from ppcls_core.data.decode import BadImage, Part, read_image
from ppcls_core.data.kept import KeptImages
from ppcls_core.data.transforms import needed
from ppcls_core.runtime.randomness import generator

CROP = (RandomCrop(size=48, scale=(0.3, 1)),)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("kept"), np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.png", "d.webp"):
        noise = rng.integers(0, 256, (20, 24, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (120, 100)))
    return sorted(folder.iterdir())


@pytest.fixture
def reads(monkeypatch):
    found = []

    def read(source, needed=None):
        found.append(source.name)
        return read_image(source, needed)

    monkeypatch.setattr(kept, "read_image", read)
    return found


def test_what_is_read_is_always_the_same(paths, reads):
    images = KeptImages()
    for number in range(60):
        for path in paths:
            part = partial(
                needed, CROP, fresh=partial(generator, number, path.name)
            )  # of a JPEG, cut off below in most epochs
            expected = read_image(path, part)
            shape = part((100, 120))
            found = images.read(path, part)
            rows = shape.rows if path.suffix == ".jpg" and shape.rows else None
            assert np.array_equal(found[:rows], expected[:rows])
    assert reads.count("c.png") == reads.count("d.webp") == 1
    assert 2 < len(reads) - 2 < 120  # JPEGs until the first epoch that needed all of it


def test_a_jpeg_is_kept_once_all_of_it_was_needed(paths, reads):
    images = KeptImages()
    for part in (Part(rows=50), Part(divisor=2), Part(), Part(), Part(rows=50), Part(rows=100)):
        images.read(paths[0], lambda shape, part=part: part)
    assert len(reads) == 3
    images.read(paths[0])
    assert len(reads) == 3
    assert images.read(paths[0], lambda shape: Part(divisor=2)).shape == (50, 60, 3)
    assert len(reads) == 4


def test_no_more_is_kept_than_there_is_room_for(paths, reads):
    images = KeptImages(2 * 100 * 120 * 3)
    for path in [*paths, *paths]:
        images.read(path)
    assert reads == ["a.jpg", "b.jpg", "c.png", "d.webp", "c.png", "d.webp"]


def test_a_kept_image_cannot_be_changed(paths):
    with pytest.raises(ValueError, match="read-only"):
        KeptImages().read(paths[2])[0] = 0


def test_an_image_that_cannot_be_read_is_tried_again(tmp_path, reads):
    images, path = KeptImages(), tmp_path / "absent.jpg"
    for _ in range(2):
        with pytest.raises(BadImage, match="missing"):
            images.read(path)
    assert len(reads) == 2
