"""Training and test-time preprocessing: geometry, colours, purity."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.data.augment import RandomCrop, RandomFlip, sized
from ppcls_core.data.transforms import Preprocess, train_transform
from ppcls_core.models.networks.layers import Network, normalize

SIDES = st.integers(16, 300)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


OPERATORS = sized((RandomCrop(), RandomFlip()), 32)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32))
def test_train_transform_is_a_pure_function_of_image_and_generator(h, w, seed):
    image = noise(h, w)
    before = image.copy()
    out = train_transform(image, OPERATORS, rng(seed), 0.5)
    assert out.shape == (3, 32, 32)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert np.array_equal(out, train_transform(image, OPERATORS, rng(seed), 0.5))
    assert np.array_equal(image, before)


def test_train_transform_varies_with_the_generator():
    image = noise(64, 64)
    outs = {train_transform(image, OPERATORS, rng(seed), 0.0).tobytes() for seed in range(50)}
    assert len(outs) == 50


def test_a_crop_keeps_a_size_of_its_own():
    own, other, flip = sized((RandomCrop(size=48), RandomCrop(), RandomFlip()), 32)
    assert (own.size, other.size, flip) == (48, 32, RandomFlip())


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
    out = Preprocess(size=size)(ramp(*shape, axis))
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
    assert np.array_equal(Preprocess(size=224)(image), expected)


def test_test_transform_copies_an_image_that_has_the_size():
    image = noise(256, 256)
    out = Preprocess(size=224)(image)
    assert np.array_equal(out, image[16:240, 16:240].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(16, 16), (16, 20), (4000, 3000), (1000, 20), (20, 1000)])
@pytest.mark.parametrize("size", [32, 224, 320])
def test_test_transform_takes_any_size_and_aspect(shape, size):
    image = np.full((*shape, 3), (10, 100, 200), np.uint8)
    out = Preprocess(size=size)(image)
    assert out.shape == (3, size, size)
    assert (out == np.array([10, 100, 200])[:, None, None]).all()


@pytest.mark.parametrize("shape", [(16, 400_001), (400_001, 16)])
def test_test_transform_of_a_strip_needs_little_memory(shape):
    image = np.zeros((*shape, 3), np.uint8)
    middle = [slice(side // 2 - 8, side // 2 + 8) for side in shape]
    image[tuple(middle)] = 255
    tracemalloc.start()
    out = Preprocess(size=224)(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert out[:, 20:-20, 20:-20].min() == 255


def test_normalize_gives_imagenets_standard_scores():
    pixels = noise(8, 6).transpose(2, 0, 1)[None].repeat(2, 0)
    out = normalize(pixels, Network()).numpy()
    assert out.dtype == np.float32
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    assert np.allclose(out, (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    black = normalize(np.zeros((1, 3, 1, 1), np.uint8), Network()).numpy().ravel()
    assert black == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)


def test_preprocess_says_short_side_and_interpolation():
    image = noise(400, 600)
    resized = cv2.resize(image, (384, 256), interpolation=cv2.INTER_CUBIC)
    got = Preprocess(size=224, short=256, interpolation="cubic")(image)
    assert np.array_equal(got, resized[16:240, 80:304].transpose(2, 0, 1))
