"""Operators that hide parts of an image: Cutout, random erasing, Hide-and-Seek, GridMask."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import (
    MEAN_COLOUR,
    Colour,
    Interval,
    Probability,
    Shares,
    Side,
    between,
    hidden,
    hidden_box,
)

Sides = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]  # of cells, pixels


class Cutout(Config):
    """Squares about any pixel, cut off at the border, are hidden; DeVries, Taylor 2017."""

    name: Literal["Cutout"] = "Cutout"
    num_holes: int = Field(default=1, ge=0)  # squares an image
    length: Side = 112  # side of a square, pixels
    fill: Colour = MEAN_COLOUR  # RGB of what is hidden

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        height, width = image.shape[:2]
        for down, right in rng.random((self.num_holes, 2)).tolist():
            y, x = int(down * height) - self.length // 2, int(right * width) - self.length // 2
            image = hidden_box(image, (y, x), (self.length, self.length), self.fill)
        return image


class RandomErasing(Config):
    """A rectangle of random area, aspect and place is hidden: Zhong et al. 2017.

    Area and aspect are uniform, as published; the first of `attempts` draws that fits is taken, and
    where none does the image stays whole.
    """

    name: Literal["RandomErasing"] = "RandomErasing"
    prob: Probability = 0.5  # of being hidden
    area: Shares = (0.02, 0.4)  # of the image's
    aspect: Interval = (0.3, 1 / 0.3)  # height / width
    attempts: int = Field(default=100, gt=0)  # draws before an image stays whole
    fill: Colour = MEAN_COLOUR  # RGB of what is hidden

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        chance, down, right = rng.random(3).tolist()
        draws = rng.random((2, self.attempts))  # all at once: their number must not vary
        if chance >= self.prob:
            return image
        height, width = image.shape[:2]
        area = height * width * between(self.area, draws[0])
        aspect = between(self.aspect, draws[1])
        heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fitting = np.flatnonzero((heights < height) & (widths < width))
        if not len(fitting):
            return image
        h, w = int(heights[fitting[0]]), int(widths[fitting[0]])
        y, x = int(down * (height - h + 1)), int(right * (width - w + 1))
        return hidden_box(image, (y, x), (h, w), self.fill)


class HideAndSeek(Config):
    """Cells of a grid (side drawn from `grid_sizes`, 0: none) hidden by `prob`: Singh, Lee 2017."""

    name: Literal["HideAndSeek"] = "HideAndSeek"
    grid_sizes: Sides = (0, 16, 32, 44, 56)  # sides of a cell, pixels; 0: nothing is hidden
    prob: Probability = 0.5  # of being hidden
    fill: Colour = MEAN_COLOUR  # RGB of what is hidden

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        which, seed = rng.random(2).tolist()
        side = self.grid_sizes[int(which * len(self.grid_sizes))]
        if side == 0:
            return image
        height, width = image.shape[:2]
        rows, columns = -(-height // side), -(-width // side)
        # The cells have a generator of their own: their number depends on the image.
        cells = np.random.Generator(np.random.PCG64(int(seed * 2**53))).random((rows, columns))
        mask = (cells < self.prob).view(np.uint8)
        size = (columns * side, rows * side)
        whole = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return hidden(image, whole[:height, :width], self.fill)


class GridMask(Config):
    """A grid of period d is laid over the image and hides its stripes or what is between them.

    The probability rises linearly from 0 to `prob` over the first `ramp` of the training; the
    paper's 240 of 300 epochs are 0.8. (The original's never left 0: nothing set its epoch.) Chen et
    al. 2020.
    """

    name: Literal["GridMask"] = "GridMask"
    d: tuple[Side, Side] = (96, 224)  # the period, pixels: from the first to below the second
    ratio: float = Field(default=0.5, gt=0, lt=1)  # width of a stripe / d
    rotate: int = Field(default=1, ge=1, le=360)  # turned by 0 to `rotate` - 1 whole degrees
    mode: Literal[0, 1] = 0  # 0: stripes are hidden, squares stay; 1: the other way, as the paper's
    prob: Probability = 1.0  # of an image, at the end of the ramp
    ramp: Probability = 0.8  # share of the training over which it rises
    fill: Colour = MEAN_COLOUR  # RGB of what is hidden

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
