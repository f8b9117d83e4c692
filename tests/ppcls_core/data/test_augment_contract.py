"""What every operator promises: purity, shapes, a fixed number of draws, settings that are checked.

Each test runs over all operators, at settings that make them act.
"""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from data_catalog.base.config import UserError
from ppcls_core.data.augment import (
    AutoAugment,
    BatchOperator,
    CenterCrop,
    CutMix,
    Cutout,
    FMix,
    GridMask,
    HideAndSeek,
    Mixup,
    Operator,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    Resize,
    apply,
)
from ppcls_core.data.augment.common import MEAN_COLOUR
from ppcls_core.models import specs

OPERATORS = [
    RandomCrop(size=(20, 33)),
    RandomFlip(),
    RandomFlip(axis="vertical", prob=1),
    Resize(short=40),
    Resize(size=(31, 17), interpolation="cubic"),
    CenterCrop(size=(15, 16)),
    AutoAugment(),
    RandAugment(num_layers=3, magnitude=9),
    Cutout(num_holes=2, length=9),
    RandomErasing(prob=0.8),
    HideAndSeek(grid_sizes=(0, 5, 16)),
    GridMask(d=(4, 30), rotate=360),
    GridMask(d=(4, 30), mode=1),
]
SHAPES = [(16, 16), (16, 90), (57, 31), (224, 224)]
IDS = [f"{operator.name}-{number}" for number, operator in enumerate(OPERATORS)]
each_operator = pytest.mark.parametrize("operator", OPERATORS, ids=IDS)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@each_operator
@pytest.mark.parametrize("shape", SHAPES)
def test_pure_and_well_formed(operator, shape):
    image = noise(*shape)
    before = image.copy()
    image.flags.writeable = False
    for seed in range(30):
        out = operator(image, rng(seed), 0.7)
        assert out.dtype == np.uint8
        assert out.ndim == 3
        assert out.shape[2] == 3
        again = operator(np.asfortranarray(image), rng(seed), 0.7)
        assert np.array_equal(out, again)
    assert np.array_equal(image, before)


@each_operator
def test_draws_do_not_depend_on_the_image(operator):
    for seed in range(30):
        states = []
        for number, shape in enumerate(SHAPES):
            draws = rng(seed)
            operator(noise(*shape, seed=number), draws, 0.7)
            states.append(draws.random())
        assert len(set(states)) == 1


@each_operator
def test_shapes_are_kept_but_by_crops_and_resizes(operator):
    if isinstance(operator, Resize) and operator.short:
        pytest.skip("test_augment_crop has its shapes")
    for shape in SHAPES:
        expected = operator.size if hasattr(operator, "size") else shape
        assert operator(noise(*shape), rng(), 1.0).shape == (*expected, 3)


@pytest.mark.parametrize("operator", OPERATORS[6:], ids=IDS[6:])
@pytest.mark.parametrize("level", [0, 104, 255])
def test_plain_images(operator, level):
    image = np.full((40, 50, 3), level, np.uint8)
    for seed in range(20):
        assert operator(image, rng(seed), 1.0).shape == image.shape


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(OPERATORS[:5] + OPERATORS[6:]), max_size=4),
    st.integers(16, 120),
    st.integers(16, 120),
    st.integers(0, 2**32),
)
def test_apply_is_each_in_turn_from_one_generator(operators, height, width, seed):
    image, draws = noise(height, width), rng(seed)
    out = apply(operators, image, rng(seed), 0.3)
    expected = image
    for operator in operators:
        expected = operator(expected, draws, 0.3)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(
    "operator",
    [
        RandomFlip(prob=0),
        Cutout(num_holes=0),
        RandomErasing(prob=0),
        HideAndSeek(grid_sizes=(0,)),
        HideAndSeek(prob=0),
        GridMask(prob=0),
        RandAugment(num_layers=0),
        Resize(size=(50, 60)),
        CenterCrop(size=(50, 60)),
    ],
)
def test_identity(operator):
    image = noise(50, 60)
    for seed in range(20):
        assert np.array_equal(operator(image, rng(seed), 1.0), image)


def test_the_fill_is_near_the_mean_after_normalisation():
    mean, std = np.array(specs.MEAN), np.array(specs.STD)
    assert tuple(np.rint(255 * mean)) == MEAN_COLOUR
    assert np.abs((np.array(MEAN_COLOUR) / 255 - mean) / std).max() < 0.009


@pytest.mark.parametrize("operator", [*OPERATORS, Mixup(), CutMix(), FMix()])
def test_settings_survive_a_file(operator):
    union = BatchOperator if isinstance(operator, Mixup | CutMix | FMix) else Operator
    adapter = TypeAdapter(union)
    assert adapter.validate_json(adapter.dump_json(operator)) == operator
    assert hash(operator) == hash(operator.model_copy())


@pytest.mark.parametrize(
    "data",
    [
        {"name": "RandomCorp"},
        {"name": "RandomCrop", "sise": 3},
        {"name": "RandomCrop", "size": 0},
        {"name": "RandomCrop", "scale": [0.5, 0.1]},
        {"name": "RandomCrop", "scale": [0.5, 1.5]},
        {"name": "RandomCrop", "scale": [0, 1]},
        {"name": "RandomCrop", "ratio": [0, 1]},
        {"name": "RandomCrop", "interpolation": "bilinear"},
        {"name": "Resize"},
        {"name": "Resize", "size": 3, "short": 3},
        {"name": "RandomFlip", "prob": 1.1},
        {"name": "RandAugment", "magnitude": 11},
        {"name": "RandAugment", "num_layers": -1},
        {"name": "AutoAugment", "fill": [0, 0, 256]},
        {"name": "RandomErasing", "attempts": 0},
        {"name": "HideAndSeek", "grid_sizes": []},
        {"name": "HideAndSeek", "grid_sizes": [-1]},
        {"name": "GridMask", "d": [30, 30]},
        {"name": "GridMask", "ratio": 1},
        {"name": "GridMask", "mode": 2},
        {"name": "GridMask", "rotate": 0},
        {"name": "Cutout", "length": 0},
    ],
)
def test_bad_settings(data):
    with pytest.raises(ValidationError):
        TypeAdapter(Operator).validate_python(data)


@pytest.mark.parametrize("operator", [Mixup, CutMix, FMix])
def test_bad_alpha(operator):
    with pytest.raises(ValidationError):
        operator(alpha=0)


def test_center_crop_of_a_smaller_image_names_the_remedy():
    with pytest.raises(
        UserError, match="224 x 224 pixels got an image of 100 x 300: put a `Resize`"
    ):
        CenterCrop()(noise(100, 300), rng(), 0.0)


def test_results_do_not_depend_on_opencv_threads():
    image, threads = noise(224, 224), cv2.getNumThreads()
    try:
        outs = []
        for num in (1, 4):
            cv2.setNumThreads(num)
            outs.append([apply(OPERATORS[6:], image, rng(seed), 1.0) for seed in range(10)])
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(*outs, strict=True))


@each_operator
def test_an_image_that_must_not_be_written_to_serves_as_well(operator):
    """Such are kept images (data/kept.py)."""
    image = noise(57, 71)
    fixed = image.copy()
    fixed.flags.writeable = False
    for seed in range(8):  # of a policy's many operations some
        expected = operator(image, rng(seed), 0.5)
        assert np.array_equal(operator(fixed, rng(seed), 0.5), expected)
