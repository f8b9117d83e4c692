"""Operators that choose the part, the size and the direction of an image: crops, resizes, flips."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from pydantic import model_validator

from data_catalog.base.config import Config, UserError
from ppcls_core.data.augment.common import (
    Interpolation,
    Interval,
    Probability,
    Shares,
    Side,
    Size,
    between,
    resized,
    sides,
)

MAX_ASPECT = 4  # longer images are cut to it before the short side is resized
FLIP_CODES = {"horizontal": 1, "vertical": 0, "both": -1}  # OpenCV's


class RandomCrop(Config):
    """A box of random area and aspect, resized: Szegedy et al. 2015, in PaddleClas's form."""

    name: Literal["RandomCrop"] = "RandomCrop"
    size: Size | None = None  # None: the training's image size
    scale: Shares = (0.08, 1.0)  # of the image's area
    ratio: Interval = (3 / 4, 4 / 3)  # width / height
    interpolation: Interpolation = "linear"  # of the resize

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        assert self.size is not None, "see `sized`"
        y, x, height, width = self.box(image.shape[:2], rng)
        box = image[y : y + height, x : x + width]
        return resized(box, sides(self.size), self.interpolation)

    def box(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the box in an image of `shape` (height, width).

        The aspect is uniform in `ratio`, then the area's share uniform in `scale`, cut at what fits
        at that aspect: every draw is usable.
        """
        height, width = shape
        ratio, area, down, right = rng.random(4).tolist()
        aspect = between(self.ratio, ratio)
        fits = min(width / height / aspect, height / width * aspect)
        share = between((min(self.scale[0], fits), min(self.scale[1], fits)), area)
        side = math.sqrt(height * width * share)
        h = max(1, min(height, int(side / math.sqrt(aspect))))
        w = max(1, min(width, int(side * math.sqrt(aspect))))
        return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w


class CenterCrop(Config):
    """The middle box of `size`, a view of the image. Raises UserError: the image is smaller."""

    name: Literal["CenterCrop"] = "CenterCrop"
    size: Size = 224  # side, or height and width, pixels

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        (height, width), (h, w) = image.shape[:2], sides(self.size)
        if h > height or w > width:
            raise UserError(
                f"`CenterCrop` of {h} x {w} pixels got an image of {height} x {width}: put a "
                f"`Resize` to a short side of at least {max(h, w)} before it"
            )
        y, x = (height - h) // 2, (width - w) // 2
        return image[y : y + h, x : x + w]


class Resize(Config):
    """To the short side `short`, the aspect kept, or to `size`, whatever the aspect.

    Of a strip longer than 4 to 1 the short side's resize takes only the middle, 4 to 1.
    """

    name: Literal["Resize"] = "Resize"
    short: Side | None = None  # length of the short side, pixels; or instead
    size: Size | None = None  # side, or height and width, pixels
    interpolation: Interpolation = "linear"  # of the resize

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


class RandomFlip(Config):
    """Mirror left and right (`horizontal`), top and bottom (`vertical`), or turn by 180 degrees."""

    name: Literal["RandomFlip"] = "RandomFlip"
    prob: Probability = 0.5  # of each image
    axis: Literal["horizontal", "vertical", "both"] = "horizontal"  # both: a half turn

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        return cv2.flip(image, FLIP_CODES[self.axis])
