"""The fourteen operations against Pillow, whose results are the published ones."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from ppcls_core.data.augment import operations
from ppcls_core.data.augment.operations import ALWAYS, NAMES, OPERATIONS, operate

FILL = (128, 128, 128)
FACTORS = st.floats(0.1, 1.9)


def smooth(height, width, seed):
    """A picture with smooth parts, texture and its own range of colours."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (5, 6, 3), np.uint8)
    large = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    low, high = sorted(draws.integers(0, 256, 2))
    return np.clip(large + draws.normal(0, 3, large.shape), low, high).astype(np.uint8)


@st.composite
def pictures(draw):
    height, width = draw(st.integers(3, 60)), draw(st.integers(3, 60))
    seed = draw(st.integers(0, 2**32))
    kind = draw(st.sampled_from(["smooth", "noise", "grey", "plain", "two"]))
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return {
        "smooth": smooth(height, width, seed),
        "noise": noise,
        "grey": noise[..., :1].repeat(3, axis=2),
        "plain": np.broadcast_to(noise[0, 0], noise.shape).copy(),
        "two": np.where(noise > 250, noise[0, 0], noise[0, 1]),
    }[kind]


def off_by(ours, image, pillow):
    """Largest distance, in grey levels, to what `pillow` makes of `image`."""
    return np.abs(ours.astype(int) - np.array(pillow(Image.fromarray(image)))).max()


each_picture = settings(max_examples=120, deadline=None)


@each_picture
@given(pictures(), FACTORS)
def test_brightness_and_contrast(image, factor):
    ours = operations.brightness(image, factor)
    assert off_by(ours, image, lambda x: ImageEnhance.Brightness(x).enhance(factor)) == 0
    ours = operations.contrast(image, factor)
    assert off_by(ours, image, lambda x: ImageEnhance.Contrast(x).enhance(factor)) <= 1


@each_picture
@given(pictures(), FACTORS)
def test_color_and_sharpness(image, factor):
    ours = operations.color(image, factor)
    assert off_by(ours, image, lambda x: ImageEnhance.Color(x).enhance(factor)) <= 1
    ours = operations.sharpness(image, factor)
    assert off_by(ours, image, lambda x: ImageEnhance.Sharpness(x).enhance(factor)) <= 1


@each_picture
@given(pictures(), st.integers(1, 8), st.integers(0, 256) | st.floats(0, 256))
def test_posterize_solarize_invert(image, bits, threshold):
    assert (
        off_by(operations.posterize(image, bits), image, lambda x: ImageOps.posterize(x, bits)) == 0
    )
    ours = operations.solarize(image, threshold)
    assert off_by(ours, image, lambda x: ImageOps.solarize(x, threshold)) == 0
    assert off_by(operations.invert(image), image, ImageOps.invert) == 0


@each_picture
@given(pictures())
def test_autocontrast_and_equalize(image):
    assert off_by(operations.autocontrast(image), image, ImageOps.autocontrast) == 0
    assert off_by(operations.equalize(image), image, ImageOps.equalize) == 0


@each_picture
@given(pictures())
def test_a_factor_of_one_changes_nothing(image):
    for enhance in (operations.brightness, operations.contrast):
        assert np.array_equal(enhance(image, 1.0), image)
    for enhance in (operations.color, operations.sharpness):
        assert np.array_equal(enhance(image, 1.0), image)


def pillow_affine(image, matrix, resample):
    moved = Image.fromarray(image).transform(
        image.shape[1::-1], Image.Transform.AFFINE, matrix, resample, fillcolor=FILL
    )
    return np.array(moved)


@settings(max_examples=60, deadline=None)
@given(pictures(), st.floats(-0.6, 0.6))
def test_translations_equal_pillow(image, share):
    height, width = image.shape[:2]
    nearest = Image.Resampling.NEAREST
    expected = pillow_affine(image, (1, 0, share * width, 0, 1, 0), nearest)
    assert np.array_equal(operations.translate(image, 1, share, FILL), expected)
    expected = pillow_affine(image, (1, 0, 0, 0, 1, share * height), nearest)
    assert np.array_equal(operations.translate(image, 0, share, FILL), expected)


@pytest.mark.parametrize("share", [-1.5, -1.0, 1.0, 1.5])
def test_translations_out_of_sight(share):
    image = smooth(20, 30, 0)
    assert (operations.translate(image, 1, share, FILL) == 128).all()
    assert (operations.translate(image, 0, share, FILL) == 128).all()


@pytest.mark.parametrize("degrees", [-30, -13.3, 5, 26.7, 30])
@pytest.mark.parametrize("shape", [(97, 140), (140, 97), (16, 16)])
def test_rotation_is_pillow_but_for_ties(shape, degrees):
    image = smooth(*shape, seed=2)
    expected = Image.fromarray(image).rotate(degrees, fillcolor=FILL)
    ours = operations.rotate(image, degrees, FILL)
    assert (ours != np.array(expected)).any(axis=2).mean() < 0.01


@pytest.mark.parametrize("slope", [-0.3, -0.1, 0.17, 0.3])
@pytest.mark.parametrize("shape", [(97, 140), (140, 97), (32, 32)])
def test_shears_are_near_pillow(shape, slope):
    """Both are cubic, with other coefficients, and OpenCV blends the fill in at the edges."""
    image, around = smooth(*shape, seed=2), np.ones((7, 7))
    for ours, matrix in (
        (operations.shear_x(image, slope, FILL), (1, slope, 0, 0, 1, 0)),
        (operations.shear_y(image, slope, FILL), (1, 0, 0, slope, 1, 0)),
    ):
        expected = pillow_affine(image, matrix, Image.Resampling.BICUBIC)
        white = np.full_like(image, 255)
        inside = pillow_affine(white, matrix, Image.Resampling.NEAREST)[..., 0] == 255
        inside = np.pad(inside.astype(np.uint8), 4)
        core = cv2.erode(inside, around)[4:-4, 4:-4] == 1
        far = cv2.dilate(inside, around)[4:-4, 4:-4] == 0
        gap = np.abs(ours.astype(int) - expected)[core]
        assert gap.max() <= 4
        assert gap.mean() < 0.8
        assert (ours[far] == 128).all()
        assert core.mean() > 0.5
        assert far.any() or abs(slope) < 0.2


def ramp():
    """Every level, rising from one corner to the other, with some noise."""
    levels = np.add.outer(np.linspace(0, 128, 80), np.linspace(0, 127, 90))[..., None]
    noise = np.random.default_rng(0).normal(0, 5, (80, 90, 3))
    return np.clip(levels + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_amounts_grow_from_nothing(name):
    image = ramp()
    if name in ALWAYS:
        outs = [operate(image, name, amount, FILL) for amount in (0, 0.4, -1)]
        assert all(np.array_equal(outs[0], out) for out in outs[1:])
        return
    assert operate(image, name, 0, FILL) is image
    unchanged = OPERATIONS[name](image, 0.0, FILL)
    assert np.array_equal(unchanged, image)
    for sign in (-1, 1):
        changes = [
            np.abs(operate(image, name, sign * amount, FILL).astype(int) - image).mean()
            for amount in (0.2, 0.5, 1.0)
        ]
        assert 0 < changes[0] < changes[1] < changes[2]


SIGNED = set(NAMES) - ALWAYS - {"posterize", "solarize"}


@pytest.mark.parametrize("name", NAMES)
def test_which_operations_have_a_direction(name):
    image = smooth(80, 90, 1)
    ways = operate(image, name, 0.7, FILL), operate(image, name, -0.7, FILL)
    assert np.array_equal(*ways) == (name not in SIGNED)


def test_strongest_amounts_are_the_published():
    image = smooth(60, 70, 4)
    assert set(np.unique(operate(image, "posterize", 1, FILL) & 15)) == {0}
    assert np.array_equal(operate(image, "solarize", 1, FILL), 255 - image)
    assert np.array_equal(operate(image, "rotate", 1, FILL), operations.rotate(image, 30, FILL))
    bright = operations.brightness(image, 1.9)
    assert np.array_equal(operate(image, "brightness", 1, FILL), bright)
    moved = operations.translate(image, 1, 150 / 331, FILL)
    assert np.array_equal(operate(image, "translate_x", 1, FILL), moved)
    assert len(NAMES) == 14
