"""Random erasing: Zhong et al. 2017."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import (
    MEAN_COLOUR,
    Colour,
    Interval,
    Probability,
    Shares,
    hidden_box,
)


class RandomErasing(Config):
    """A rectangle of random area, aspect and place is hidden.

    Area and aspect are uniform, as published; the first of `attempts` draws that fits is taken, and
    where none does the image stays whole.
    """

    name: Literal["RandomErasing"] = "RandomErasing"
    prob: Probability = 0.5
    area: Shares = (0.02, 0.4)  # of the image's
    aspect: Interval = (0.3, 1 / 0.3)  # height / width
    attempts: int = Field(default=100, gt=0)
    fill: Colour = MEAN_COLOUR

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        chance, down, right = rng.random(3).tolist()
        draws = rng.random((2, self.attempts))  # all at once: their number must not vary
        if chance >= self.prob:
            return image
        height, width = image.shape[:2]
        area = height * width * (self.area[0] + (self.area[1] - self.area[0]) * draws[0])
        aspect = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * draws[1]
        heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fitting = np.flatnonzero((heights < height) & (widths < width))
        if not len(fitting):
            return image
        h, w = int(heights[fitting[0]]), int(widths[fitting[0]])
        y, x = int(down * (height - h + 1)), int(right * (width - w + 1))
        return hidden_box(image, (y, x), (h, w), self.fill)
