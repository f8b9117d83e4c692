"""Mixup, CutMix, FMix: the weight is what the pixels say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.data.augment import CutMix, FMix, Mixup
from ppcls_core.data.augment.mix import _low_frequencies

EACH = pytest.mark.parametrize("operator", [Mixup(), CutMix(), FMix(), Mixup(alpha=2)], ids=repr)


def rng(seed=0):
    return np.random.default_rng(seed)


def batch(num, height, width, seed=0):
    return rng(seed).integers(0, 256, (num, 3, height, width), np.uint8)


def level_batch(num, height, width):
    """Image k is of level k throughout, so that each pixel tells where it comes from."""
    return np.broadcast_to(
        np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 3, height, width)
    )


@EACH
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(16, 40), st.integers(16, 40), st.integers(0, 2**32))
def test_pure_and_well_formed(operator, num, height, width, seed):
    pixels, labels = batch(num, height, width), np.arange(num)
    pixels.flags.writeable = labels.flags.writeable = False
    before = pixels.copy()
    out = operator(pixels, labels, rng(seed))
    again = operator(pixels.copy(), labels.copy(), rng(seed))
    assert np.array_equal(pixels, before)
    assert out.pixels.shape == pixels.shape
    assert out.pixels.dtype == np.uint8
    assert out.pixels.flags.c_contiguous
    assert np.array_equal(out.pixels, again.pixels)
    assert np.array_equal(out.weight, again.weight)
    assert np.array_equal(out.labels, labels)
    assert sorted(out.other_labels) == list(labels)
    assert out.other_labels.dtype == labels.dtype
    assert out.weight.dtype == np.float32
    assert out.weight.shape == (num,)
    assert len(set(out.weight.tolist())) == 1
    assert 0 <= out.weight[0] <= 1


@pytest.mark.parametrize("operator", [CutMix(alpha=1), FMix()])
@settings(max_examples=40, deadline=None)
@given(st.integers(16, 60), st.integers(16, 60), st.integers(0, 2**32))
def test_the_weight_is_the_exact_share_of_pixels(operator, height, width, seed):
    pixels = level_batch(5, height, width)
    out = operator(pixels, np.arange(5), rng(seed))
    for image, a, b in zip(out.pixels, out.labels, out.other_labels, strict=True):
        assert set(np.unique(image)) <= {a, b}
        assert (image == image[0]).all()  # the same pixels of the three channels
        if a != b:
            assert np.float32((image[0] == a).sum() / image[0].size) == out.weight[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 60), st.integers(16, 60), st.integers(0, 2**32))
def test_cut_mix_pastes_one_box_at_its_place(height, width, seed):
    pixels = batch(4, height, width)
    out = CutMix(alpha=1)(pixels, np.arange(4), rng(seed))
    changed = (out.pixels != pixels).any(axis=(0, 1))
    if not changed.any():
        return
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    box = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert np.array_equal(out.pixels[box], pixels[out.other_labels][box])


def test_cut_mix_boxes_have_the_image_s_aspect():
    draws, pixels = rng(1), level_batch(2, 200, 100)
    for _ in range(60):
        out = CutMix(alpha=1)(pixels, np.arange(2), draws)
        mask = out.pixels[0, 0] == 1
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        inside = not (rows[0] or rows[-1] or columns[0] or columns[-1])
        if mask.any() and inside:
            assert abs(rows.sum() - 2 * columns.sum()) <= 3


@pytest.mark.parametrize("weight", [0.0, 0.013, 0.25, 1 / 3, 0.5, 0.77, 0.999, 1.0])
def test_mixup_rounds_to_the_nearest_level(weight):
    """All 65,536 pairs of levels; the generator's draws are replaced."""

    class Fixed:
        def permutation(self, num):
            return np.arange(num)[::-1]

        def beta(self, a, b):
            return weight

    first = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 256, 256))
    pixels = np.stack([first, first.transpose(0, 2, 1)])
    out = Mixup()(pixels, np.arange(2), Fixed())
    exact = weight * pixels.astype(float) + (1 - weight) * pixels[::-1]
    assert np.abs(out.pixels - exact).max() <= 0.501
    assert out.weight.tolist() == [np.float32(weight)] * 2


def test_mixup_bound_after_normalisation():
    assert 0.501 / 255 / 0.224 < 0.009


@pytest.mark.parametrize(("operator", "alpha"), [(Mixup(), 0.2), (Mixup(alpha=3), 3.0)])
def test_mixup_weights_are_beta(operator, alpha):
    draws, num = rng(2), 3000
    pixels = batch(2, 4, 4)
    weights = np.array([operator(pixels, np.arange(2), draws).weight[0] for _ in range(num)])
    expected = rng(3).beta(alpha, alpha, 200_000)
    places = np.linspace(0.01, 0.99, 60)
    gap = np.abs(
        (weights[:, None] <= places).mean(axis=0) - (expected[:, None] <= places).mean(axis=0)
    )
    assert gap.max() < 1.95 / math.sqrt(num) + 0.003


def test_f_mix_weights_are_uniform():
    draws, pixels = rng(4), level_batch(2, 32, 32)
    weights = np.sort([FMix()(pixels, np.arange(2), draws).weight[0] for _ in range(800)])
    gap = np.abs(weights - (np.arange(800) + 0.5) / 800).max()
    assert gap < 1.95 / math.sqrt(800)


@pytest.mark.parametrize("shape", [(64, 64), (33, 48), (48, 33)])
def test_f_mix_fields_are_of_low_frequencies_both_ways(shape):
    powers = np.mean(
        [np.abs(np.fft.fft2(_low_frequencies(shape, 3.0, rng(seed)))) ** 2 for seed in range(300)],
        axis=0,
    )
    # Amplitudes by 1 / f^3: eight times the frequency has 8^-6 of the power, on each axis.
    for axis in (powers[:, 0], powers[0]):
        assert axis[8] / axis[1] == pytest.approx(8**-6, rel=0.4)
    assert powers[1, 0] / powers[0, 1] == pytest.approx((shape[0] / shape[1]) ** 6, rel=0.4)


def test_partners_are_random():
    draws, pixels = rng(5), batch(4, 4, 4)
    partners = np.array([Mixup()(pixels, np.arange(4), draws).other_labels for _ in range(2000)])
    counts = np.array([np.bincount(column, minlength=4) for column in partners.T])
    assert np.abs(counts - 500).max() < 4 * math.sqrt(2000 * 3 / 16)
