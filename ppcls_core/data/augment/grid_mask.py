"""GridMask: Chen et al. 2020."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import MEAN_COLOUR, Colour, Probability, Side, hidden


class GridMask(Config):
    """A grid of period d is laid over the image and hides its stripes or what is between them.

    The probability rises linearly from 0 to `prob` over the first `ramp` of the training; the
    paper's 240 of 300 epochs are 0.8. (The original's never left 0: nothing set its epoch.)
    """

    name: Literal["GridMask"] = "GridMask"
    d: tuple[Side, Side] = (96, 224)  # the period, pixels: from the first to below the second
    ratio: float = Field(default=0.5, gt=0, lt=1)  # width of a stripe / d
    rotate: int = Field(default=1, ge=1, le=360)  # turned by 0 to `rotate` - 1 whole degrees
    mode: Literal[0, 1] = 0  # 0: stripes are hidden, squares stay; 1: the other way, as the paper's
    prob: Probability = 1.0
    ramp: Probability = 0.8
    fill: Colour = MEAN_COLOUR

    @model_validator(mode="after")
    def _ascending(self) -> GridMask:
        if self.d[0] >= self.d[1]:
            raise ValueError("`d` must be two periods, the smaller first")
        return self

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        chance, *draws = rng.random(5).tolist()
        if chance >= self.prob * (1.0 if progress >= self.ramp else progress / self.ramp):
            return image
        return hidden(image, self._stripes(image.shape[:2], draws) != self.mode, self.fill)

    def _stripes(self, shape: tuple[int, int], draws: list[float]) -> np.ndarray:
        """uint8 of `shape`: 1 on the stripes of a random grid, else 0."""
        d = self.d[0] + int(draws[0] * (self.d[1] - self.d[0]))
        width = int(d * self.ratio + 0.5)
        degrees = int(draws[3] * self.rotate)
        side = math.ceil(math.hypot(*shape)) + 2  # covers the image at any angle
        rows, columns = (
            (np.arange(length) + int(draw * d)) % d < width
            for length, draw in zip((side, side) if degrees else shape, draws[1:3], strict=True)
        )
        stripes = (rows[:, None] | columns).view(np.uint8)
        return _turned(stripes, shape, degrees) if degrees else stripes


def _turned(mask: np.ndarray, shape: tuple[int, int], degrees: int) -> np.ndarray:
    """The middle, of `shape`, of the square uint8 `mask` turned by `degrees`."""
    side = len(mask)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1)
    matrix[:, 2] -= (side - shape[1]) / 2, (side - shape[0]) / 2
    return cv2.warpAffine(mask, matrix, shape[::-1], flags=cv2.INTER_NEAREST)
