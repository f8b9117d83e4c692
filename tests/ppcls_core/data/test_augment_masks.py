"""Cutout, RandomErasing, HideAndSeek, GridMask: what they hide, how much, how often."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.data.augment import Cutout, GridMask, HideAndSeek, RandomErasing
from ppcls_core.data.augment.common import MEAN_COLOUR

WHITE = np.full((224, 224, 3), 255, np.uint8)
MEAN = np.array(MEAN_COLOUR, np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def hidden(out):
    """Where `out` has the fill colour; nothing else may have changed (the input is white)."""
    mask = out[..., 0] != 255
    assert np.array_equal(out, np.where(mask[..., None], MEAN, np.uint8(255)))
    return mask


def box_of(mask):
    """(top, left, height, width) of a mask that is one full rectangle."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    height, width = rows[-1] - top + 1, columns[-1] - left + 1
    assert mask[top : top + height, left : left + width].all()
    assert mask.sum() == height * width
    return top, left, height, width


def near(count, num, prob):
    return abs(count - num * prob) <= 4 * math.sqrt(num * prob * (1 - prob))


@pytest.mark.parametrize("length", [112, 33, 1, 500])
def test_cutout_hides_a_square_about_any_pixel(length):
    draws, operator = rng(1), Cutout(length=length)
    middles = []
    for _ in range(300):
        top, _, height, width = box_of(hidden(operator(WHITE, draws, 0.0)))
        assert height <= length
        assert width <= length
        if top > 0 and top + height < 224:
            assert height == length
            middles.append(top + length // 2)
        assert min(height, width) >= min(224, length // 2)
    if length == 1:
        counts = np.histogram(middles, 8, (0, 224))[0]
        assert ((counts - len(middles) / 8) ** 2 / (len(middles) / 8)).sum() < 24.3  # 1 of 1000


def test_cutout_area_is_the_published_expectation():
    """A square cut off at the border: half the middles, an edge loses a quarter."""
    draws = rng(2)
    shares = [hidden(Cutout()(WHITE, draws, 0.0)).mean() for _ in range(800)]
    assert np.mean(shares) == pytest.approx((0.5 * 0.875) ** 2, abs=0.004)


def test_cutout_holes():
    out = Cutout(num_holes=3, length=2)(WHITE, rng(4), 0.0)
    assert hidden(out).sum() == 12


def test_random_erasing_keeps_its_bounds_and_its_chance():
    draws, operator = rng(3), RandomErasing()
    boxes = []
    for _ in range(1500):
        out = operator(WHITE, draws, 0.0)
        if out is not WHITE:
            boxes.append(box_of(hidden(out)))
    assert near(len(boxes), 1500, 0.5)
    top, left, height, width = np.array(boxes, float).T
    share, aspect = height * width / 224**2, height / width
    assert share.min() > 0.018
    assert share.max() < 0.402
    assert aspect.min() > 0.28
    assert aspect.max() < 3.5
    # Uniform, less what does not fit: of the small ones all fit.
    small = np.sort(share[share < 0.2])
    uniform = (small - 0.02) / 0.18 - (np.arange(len(small)) + 0.5) / len(small)
    assert np.abs(uniform).max() < 1.95 / math.sqrt(len(small)) + 0.01
    assert np.median(aspect[share < 0.2]) == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.2)
    for place in (top / (224 - height), left / (224 - width)):
        assert np.mean(place) == pytest.approx(0.5, abs=0.05)
        assert np.histogram(place, 4, (0, 1))[0].min() > len(place) / 4 * 0.8


def test_random_erasing_gives_up():
    strip = np.full((16, 4000, 3), 255, np.uint8)
    operator = RandomErasing(prob=1, area=(0.4, 0.4), aspect=(1, 1))
    assert operator(strip, rng(), 0.0) is strip


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 80), st.integers(16, 80), st.integers(0, 2**32))
def test_random_erasing_of_any_shape(height, width, seed):
    image = np.full((height, width, 3), 255, np.uint8)
    out = RandomErasing(prob=1)(image, rng(seed), 0.0)
    _, _, h, w = box_of(hidden(out))
    assert h < height
    assert w < width


@pytest.mark.parametrize("size", [16, 32, 44, 56, 7, 300])
@pytest.mark.parametrize("shape", [(224, 224), (100, 61), (16, 16)])
def test_hide_and_seek_hides_whole_cells(size, shape):
    image = np.full((*shape, 3), 255, np.uint8)
    operator, draws = HideAndSeek(grid_sizes=(size,)), rng(5)
    hits = cells = 0
    for _ in range(20):
        mask = hidden(operator(image, draws, 0.0))
        corners = mask[::size, ::size]
        whole = corners.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]
        assert np.array_equal(mask, whole)
        hits, cells = hits + corners.sum(), cells + corners.size
    assert near(hits, cells, 0.5)


def test_hide_and_seek_draws_all_sizes_alike():
    draws, operator, counts = rng(6), HideAndSeek(prob=0.3), dict.fromkeys((0, 16, 32, 44, 56), 0)
    for _ in range(1000):
        mask = hidden(operator(WHITE, draws, 0.0))
        fitting = [s for s in (56, 44, 32, 16) if np.array_equal(mask, _on_grid(mask, s))]
        counts[fitting[0] if mask.any() else 0] += 1
    assert all(near(count, 1000, 0.2) for count in counts.values()), counts


def _on_grid(mask, size):
    return mask[::size, ::size].repeat(size, 0).repeat(size, 1)[:224, :224]


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0), (0.2, 0.15), (0.4, 0.3), (0.8, 0.6), (1, 0.6)]
)
def test_grid_mask_becomes_likelier_over_the_training(progress, expected):
    draws, operator = rng(7), GridMask(prob=0.6)
    image = np.zeros((16, 16, 3), np.uint8)
    hits = sum(operator(image, draws, progress) is not image for _ in range(8000))
    assert near(hits, 8000, expected)


def test_grid_mask_without_a_ramp():
    assert hidden(GridMask(ramp=0)(WHITE, rng(), 0.0)).any()


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("ratio", [0.5, 0.6])
def test_grid_mask_is_a_grid_of_the_drawn_period(mode, ratio):
    image = np.full((700, 900, 3), 255, np.uint8)
    draws, periods = rng(8), []
    for _ in range(60):
        mask = hidden(GridMask(mode=mode, ratio=ratio)(image, draws, 1.0))
        stripes = ~mask if mode == 1 else mask
        rows, columns = stripes.all(axis=1), stripes.all(axis=0)
        assert np.array_equal(stripes, rows[:, None] | columns)
        starts = np.flatnonzero(~rows[:-1] & rows[1:])
        assert len(starts) >= 2
        d = starts[1] - starts[0]
        assert 96 <= d < 224
        width = np.flatnonzero(~rows[starts[0] + 1 :])[0]
        assert width == int(d * ratio + 0.5)
        periods.append(d)
    assert min(periods) < 120
    assert max(periods) > 200
    assert len(set(periods)) > 25


@pytest.mark.parametrize("rotate", [1, 90, 360])
@pytest.mark.parametrize(("mode", "ratio"), [(0, 0.5), (1, 0.6)])
def test_grid_mask_hides_its_share_at_any_angle(rotate, mode, ratio):
    image = np.full((120, 200, 3), 255, np.uint8)
    operator, draws = GridMask(d=(10, 30), ratio=ratio, rotate=rotate, mode=mode), rng(9)
    masks = [hidden(operator(image, draws, 1.0)) for _ in range(200)]
    kept = (1 - ratio) ** 2 if mode == 0 else 1 - (1 - ratio) ** 2
    assert np.mean(masks) == pytest.approx(1 - kept, abs=0.015)
    # No corner is left out by the turn, none is always hidden.
    corners = np.mean(masks, axis=0)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(corners - (1 - kept)).max() < 0.16
    turned = sum(not np.array_equal(m, m.all(1)[:, None] | m.all(0)) for m in masks if mode == 0)
    assert (turned > 150) == (rotate > 1 and mode == 0)


@pytest.mark.parametrize(
    "operator", [Cutout(), RandomErasing(prob=1), HideAndSeek(grid_sizes=(8,)), GridMask()]
)
def test_fill_colour(operator):
    out = operator.model_copy(update={"fill": (9, 8, 7)})(WHITE, rng(), 1.0)
    assert {tuple(colour) for colour in np.unique(out.reshape(-1, 3), axis=0)} == {
        (9, 8, 7),
        (255, 255, 255),
    }
