"""Training and test-time preprocessing: geometry, colours, purity."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.data import transforms
from ppcls_core.data.transforms import Augmentation, normalize, random_crop, train_transform

SIDES = st.integers(16, 300)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([16, 32, 97]), st.integers(0, 2**32), st.booleans())
def test_train_transform_is_a_pure_function_of_image_and_generator(h, w, size, seed, colour):
    image = noise(h, w)
    config = Augmentation(brightness=0.4 if colour else 0)
    before = image.copy()
    out = train_transform(image, size, config, rng(seed))
    assert out.shape == (3, size, size)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert np.array_equal(out, train_transform(image[:], size, config, rng(seed)))
    view = np.asfortranarray(image)
    assert np.array_equal(out, train_transform(view, size, config, rng(seed)))
    assert np.array_equal(image, before)


def test_train_transform_varies_with_the_generator():
    image = noise(60, 80)
    outs = {train_transform(image, 32, Augmentation(), rng(seed)).tobytes() for seed in range(50)}
    assert len(outs) == 50


@pytest.mark.parametrize("shape", [(100, 100), (300, 400), (1000, 20), (20, 1000), (16, 16)])
@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_random_crop_keeps_area_and_aspect_within_bounds(shape, min_area):
    height, width = shape
    image, draws = np.empty((*shape, 3), np.uint8), rng()
    fits = 3 / 4 * min(width / height, height / width)  # the share that fits at any aspect drawn
    for _ in range(2000):
        crop = random_crop(image, min_area, draws)
        assert np.shares_memory(crop, image)
        h, w = crop.shape[:2]
        assert 1 <= h <= height
        assert 1 <= w <= width
        # Sides are rounded down: one pixel more is at least the share and the aspect drawn.
        assert (h + 1) * (w + 1) >= min(min_area, fits) * height * width
        assert w / (h + 1) <= 4 / 3
        assert (w + 1) / h >= 3 / 4


@pytest.mark.parametrize("shape", [(400, 400), (400, 9000), (9000, 400)])
def test_random_crops_aspect_is_uniform_whatever_the_image(shape):
    image, draws = np.empty((*shape, 1), np.uint8), rng(4)
    crops = [random_crop(image, 0.08, draws) for _ in range(4000)]
    aspects = np.array([crop.shape[1] / crop.shape[0] for crop in crops])
    expected = np.linspace(3 / 4, 4 / 3, 21)[1:-1]
    assert np.allclose(np.quantile(aspects, np.linspace(0, 1, 21)[1:-1]), expected, atol=0.03)


def test_random_crop_reaches_every_area_aspect_and_border():
    image, draws = np.arange(200 * 200).reshape(200, 200, 1), rng(1)
    crops = [random_crop(image, 0.08, draws) for _ in range(4000)]
    areas = np.array([crop.shape[0] * crop.shape[1] / 200**2 for crop in crops])
    aspects = np.array([crop.shape[1] / crop.shape[0] for crop in crops])
    assert areas.min() < 0.1
    assert areas.max() > 0.97
    assert abs(areas.mean() - 0.5) < 0.03  # uniform in [0.08, 0.75 to 1]
    assert aspects.min() < 0.77
    assert aspects.max() > 1.3
    assert any(crop[0, 0, 0] == 0 for crop in crops)
    assert any(crop[-1, -1, 0] == 200 * 200 - 1 for crop in crops)


@pytest.mark.parametrize("flip", [0.0, 0.3, 0.5, 1.0])
def test_share_of_flipped_images_is_the_probability(flip):
    image = np.zeros((32, 32, 3), np.uint8)
    image += np.arange(32, dtype=np.uint8)[None, :, None] * 8  # brighter to the right
    draws, num = rng(2), 3000
    outs = [train_transform(image, 8, Augmentation(flip=flip), draws) for _ in range(num)]
    share = np.mean([out[0, :, 0].mean() > out[0, :, -1].mean() for out in outs])
    assert abs(share - flip) <= 4 * np.sqrt(flip * (1 - flip) / num)


def test_brightness_changes_the_gains_within_bounds_and_saturates():
    grey, bright = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 250, np.uint8)
    config, draws = Augmentation(brightness=0.2), rng(3)
    means = np.array([train_transform(grey, 8, config, draws)[:, 0, 0] for _ in range(500)])
    assert means.min() >= 100 * (1 - 0.26) - 1
    assert means.max() <= 100 * (1 + 0.26) + 1
    assert means.min() < 82
    assert means.max() > 118
    spread = means.max(1).astype(int) - means.min(1)
    assert 5 < spread.max() <= 0.12 * 100 + 1  # channels differ by 2 * 0.3 * 0.2 at most
    outs = [train_transform(bright, 8, config, draws) for _ in range(100)]
    assert min(out.min() for out in outs) > 150  # clipped at 255, not wrapped around
    assert max(out.max() for out in outs) == 255


def ramp(height, width, axis):
    """Values that rise from 0 to 255 along `axis`."""
    line = np.linspace(0, 255, (height, width)[axis]).round().astype(np.uint8)
    plane = np.broadcast_to(line[:, None] if axis == 0 else line[None], (height, width))
    return np.ascontiguousarray(np.repeat(plane[..., None], 3, 2))


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(16, 700), st.integers(16, 700)),
    st.sampled_from([32, 97, 224]),
    st.sampled_from([0, 1]),
)
def test_test_transform_shows_the_middle_at_the_documented_scale(shape, size, axis):
    out = transforms.test_transform(ramp(*shape, axis), size)
    assert out.shape == (3, size, size)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    line = out[0, :, 0] if axis == 0 else out[0, 0]
    scale = round(size / 0.875) / min(shape)
    place = (np.arange(size) + 0.5 - size / 2) / scale + shape[axis] / 2 - 0.5
    expected = np.clip(place, 0, shape[axis] - 1) * 255 / (shape[axis] - 1)
    pixel = 255 / (shape[axis] - 1) * max(1, 1 / scale)  # grey levels of a pixel, in or out
    assert np.abs(line.astype(float) - expected).max() <= 1.5 + pixel


@pytest.mark.parametrize(("method", "factor"), [(cv2.INTER_AREA, 2), (cv2.INTER_LINEAR, 0.5)])
def test_test_transform_equals_resize_and_centre_crop(method, factor):
    image = noise(int(256 * factor), int(320 * factor))
    resized = cv2.resize(image, (320, 256), interpolation=method)
    expected = resized[16:240, 48:272].transpose(2, 0, 1)
    assert np.array_equal(transforms.test_transform(image, 224), expected)


def test_test_transform_copies_an_image_that_has_the_size():
    image = noise(256, 256)
    out = transforms.test_transform(image, 224)
    assert np.array_equal(out, image[16:240, 16:240].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(16, 16), (16, 20), (4000, 3000), (1000, 20), (20, 1000)])
@pytest.mark.parametrize("size", [32, 224, 320])
def test_test_transform_takes_any_size_and_aspect(shape, size):
    image = np.full((*shape, 3), (10, 100, 200), np.uint8)
    out = transforms.test_transform(image, size)
    assert out.shape == (3, size, size)
    assert (out == np.array([10, 100, 200])[:, None, None]).all()


@pytest.mark.parametrize("shape", [(16, 400_001), (400_001, 16)])
def test_test_transform_of_a_strip_needs_little_memory(shape):
    image = np.zeros((*shape, 3), np.uint8)
    middle = [slice(side // 2 - 8, side // 2 + 8) for side in shape]
    image[tuple(middle)] = 255
    tracemalloc.start()
    out = transforms.test_transform(image, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert out[:, 20:-20, 20:-20].min() == 255


def test_normalize_gives_imagenets_standard_scores():
    pixels = noise(8, 6).transpose(2, 0, 1)[None].repeat(2, 0)
    out = normalize(pixels).numpy()
    assert out.dtype == np.float32
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    assert np.allclose(out, (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    black = normalize(np.zeros((1, 3, 1, 1), np.uint8)).numpy().ravel()
    assert black == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)
