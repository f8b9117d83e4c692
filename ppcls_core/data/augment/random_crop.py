"""Random crop, resized: Szegedy et al. 2015, in PaddleClas's form."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import Interpolation, Interval, Shares, Size, resized, sides


class RandomCrop(Config):
    """A box of random area and aspect, resized to `size`."""

    name: Literal["RandomCrop"] = "RandomCrop"
    size: Size | None = None  # None: the training's image size
    scale: Shares = (0.08, 1.0)  # of the image's area
    ratio: Interval = (3 / 4, 4 / 3)  # width / height
    interpolation: Interpolation = "linear"

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
        aspect = _between(self.ratio, ratio)
        fits = min(width / height / aspect, height / width * aspect)
        share = _between((min(self.scale[0], fits), min(self.scale[1], fits)), area)
        side = math.sqrt(height * width * share)
        h = max(1, min(height, int(side / math.sqrt(aspect))))
        w = max(1, min(width, int(side * math.sqrt(aspect))))
        return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w


def _between(interval: tuple[float, float], share: float) -> float:
    return interval[0] + (interval[1] - interval[0]) * share
