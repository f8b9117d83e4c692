"""Resizing, by the short side or to an exact size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import Interpolation, Side, Size, resized, sides

MAX_ASPECT = 4  # longer images are cut to it before the short side is resized


class Resize(Config):
    """To the short side `short`, the aspect kept, or to `size`, whatever the aspect.

    Of a strip longer than 4 to 1 the short side's resize takes only the middle, 4 to 1.
    """

    name: Literal["Resize"] = "Resize"
    short: Side | None = None
    size: Size | None = None
    interpolation: Interpolation = "linear"

    @model_validator(mode="after")
    def _one(self) -> Resize:
        if (self.short is None) == (self.size is None):
            raise ValueError("expected one of `short` and `size`")
        return self

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        if self.size is not None:
            return resized(image, sides(self.size), self.interpolation)
        assert self.short is not None
        image = middle(image, MAX_ASPECT * min(image.shape[:2]))
        height, width = image.shape[:2]
        scale = self.short / min(height, width)
        return resized(image, (round(height * scale), round(width * scale)), self.interpolation)


def middle(image: np.ndarray, longest: int) -> np.ndarray:
    """The middle of `image`, no side of it above `longest`: enlarging a whole strip takes GBs."""
    height, width = image.shape[:2]
    y, x = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[y : y + longest, x : x + longest]
