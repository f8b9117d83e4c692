"""Equal arguments give the pixels they gave before, or the augmentation's VERSION is raised.

Stored labels of augmented views (ppcls_core.labels) are of use for the very same pixels only.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ppcls_core.data.augment import (
    VERSION,
    AutoAugment,
    CenterCrop,
    Cutout,
    GridMask,
    HideAndSeek,
    Operator,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    Resize,
    apply,
)
from ppcls_core.runtime.randomness import generator
from tests.conftest import PROJECT

GOLDEN = json.loads((PROJECT / "tests/golden/augmentation.json").read_text())
OPERATORS: list[Operator] = [
    RandomCrop(size=48),
    RandomFlip(),
    Resize(short=40),
    CenterCrop(size=48),
    AutoAugment(),
    RandAugment(),
    Cutout(length=30),
    RandomErasing(prob=1),
    HideAndSeek(prob=1),
    GridMask(d=(20, 40), prob=1),
]


def photograph() -> np.ndarray:
    """uint8 [60, 80, 3], smooth, so that a pixel's shift changes little and a draw's much."""
    y, x = np.mgrid[:60, :80] / 20
    planes = [np.sin(x + y * k) + np.cos(k * x - y) for k in (1, 2, 3)]
    return np.stack([np.uint8(63 * plane + 127) for plane in planes], 2)


def summary(operator: Operator) -> list[int]:
    """Mean grey levels of 3 x 4 fields of the operator's pictures for four draws."""
    pictures = (apply([operator], photograph(), generator(0, n), 0.5) for n in range(4))
    fields = (cv2.resize(p, (4, 3), interpolation=cv2.INTER_AREA) for p in pictures)
    return np.concatenate([field.reshape(-1) for field in fields]).tolist()


def test_goldens_are_of_this_version() -> None:
    assert GOLDEN["version"] == VERSION
    assert set(GOLDEN["summaries"]) == {operator.name for operator in OPERATORS}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_pixels_are_those_of_this_version(operator: Operator) -> None:
    got, want = np.array(summary(operator)), np.array(GOLDEN["summaries"][operator.name])
    # Processors may round otherwise, by a grey level of few pixels.
    assert np.abs(got - want).max() <= 1, "raise VERSION of ppcls_core.data.augment"


def test_another_draw_is_noticed() -> None:
    crop = RandomCrop(size=48, scale=(0.3, 1))
    assert np.abs(np.array(summary(crop)) - GOLDEN["summaries"]["RandomCrop"]).max() > 10
