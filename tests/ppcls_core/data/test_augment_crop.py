"""RandomCrop, RandomFlip, Resize, CenterCrop: which pixels they take, and how often."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.data.augment import CenterCrop, RandomCrop, RandomFlip, Resize

NUM = 4000
KS = 1.95 / math.sqrt(NUM)  # the distance that 1 sample of 1000 exceeds


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def distance_to_uniform(values, low, high):
    """Kolmogorov-Smirnov distance of `values` to the uniform distribution."""
    places = (np.sort(values) - low) / (high - low)
    return np.abs(places - (np.arange(len(values)) + 0.5) / len(values)).max()


def boxes(operator, height, width):
    draws = rng(3)
    return np.array([operator.box((height, width), draws) for _ in range(NUM)], float).T


def test_area_aspect_and_place_are_uniform():
    side = 20_000  # so large that whole pixels do not show
    y, x, h, w = boxes(RandomCrop(scale=(0.08, 0.6)), side, side)
    assert distance_to_uniform(w / h, 3 / 4, 4 / 3) < KS
    assert distance_to_uniform(w * h / side**2, 0.08, 0.6) < KS
    assert distance_to_uniform(y / (side - h), 0, 1) < KS
    assert distance_to_uniform(x / (side - w), 0, 1) < KS
    assert abs(np.corrcoef([w / h, w * h, y / (side - h), x / (side - w)]) - np.eye(4)).max() < 0.06


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.floats(0.01, 1), st.integers(0, 2**32))
def test_boxes_fit_and_keep_area_and_aspect(height, width, least, seed):
    y, x, h, w = RandomCrop(scale=(least, 1)).box((height, width), rng(seed))
    assert 0 <= y <= y + h <= height
    assert 0 <= x <= x + w <= width
    assert h >= 1
    assert w >= 1
    # Sides are rounded down: one pixel more is at least the share and the aspect drawn.
    fits = 3 / 4 * min(width / height, height / width)
    assert (h + 1) * (w + 1) >= min(least, fits) * height * width * 0.999
    assert (w + 1) / h > 0.749
    assert w / (h + 1) < 1.334


def test_the_whole_image_is_a_crop():
    image = noise(40, 40)
    out = RandomCrop(size=40, scale=(1, 1), ratio=(1, 1))(image, rng(), 0.0)
    assert np.array_equal(out, image)


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic", "area", "lanczos"])
def test_the_crop_is_the_box_resized(interpolation):
    image, operator = noise(90, 70), RandomCrop(size=(24, 30), interpolation=interpolation)
    code = {"nearest": 0, "linear": 1, "cubic": 2, "area": 3, "lanczos": 4}[interpolation]
    for seed in range(10):
        y, x, h, w = operator.box((90, 70), rng(seed))
        box = image[y : y + h, x : x + w].copy()
        expected = cv2.resize(box, (30, 24), interpolation=code)
        assert np.array_equal(operator(image, rng(seed), 0.0), expected)


@pytest.mark.parametrize("prob", [0.5, 0.1])
def test_flips_as_often_as_asked(prob):
    image, draws, operator = noise(4, 4), rng(1), RandomFlip(prob=prob)
    flipped = sum(operator(image, draws, 0.0) is not image for _ in range(NUM))
    assert abs(flipped - NUM * prob) < 3.3 * math.sqrt(NUM * prob * (1 - prob))


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("horizontal", np.s_[:, ::-1]),
        ("vertical", np.s_[::-1]),
        ("both", np.s_[::-1, ::-1]),
    ],
)
def test_flip_axes(axis, expected):
    image = noise(13, 18)
    assert np.array_equal(RandomFlip(prob=1, axis=axis)(image, rng(), 0.0), image[expected])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((60, 80), (30, 40)), ((80, 60), (40, 30)), ((375, 500), (30, 40)), ((20, 21), (30, 32))],
)
def test_resize_keeps_the_aspect(shape, expected):
    image = noise(*shape)
    out = Resize(short=30)(image, rng(), 0.0)
    assert np.array_equal(out, cv2.resize(image, expected[::-1]))


def test_of_a_strip_the_middle_is_resized():
    strip = np.broadcast_to(np.arange(1000, dtype=np.uint8)[:, None, None], (1000, 20, 3))
    out = Resize(short=40)(strip, rng(), 0.0)
    assert out.shape == (160, 40, 3)
    assert np.array_equal(out, cv2.resize(strip[460:540].copy(), (40, 160)))
    assert Resize(short=256)(np.zeros((16, 500_000, 3), np.uint8), rng(), 0.0).shape[1] == 1024


@pytest.mark.parametrize("shape", [(30, 40), (31, 43), (20, 24)])
def test_center_crop_takes_the_middle_without_a_copy(shape):
    image = noise(*shape)
    out = CenterCrop(size=(20, 24))(image, rng(), 0.0)
    y, x = (shape[0] - 20) // 2, (shape[1] - 24) // 2
    assert np.shares_memory(out, image)
    assert np.array_equal(out, image[y : y + 20, x : x + 24])
