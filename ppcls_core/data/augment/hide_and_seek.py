"""Hide-and-Seek: Singh and Lee 2017."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import MEAN_COLOUR, Colour, Probability, hidden

GridSizes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
"""Sides of the cells, pixels."""


class HideAndSeek(Config):
    """Each cell of a grid, its size drawn from `grid_sizes`, is hidden by `prob`; size 0: none."""

    name: Literal["HideAndSeek"] = "HideAndSeek"
    grid_sizes: GridSizes = (0, 16, 32, 44, 56)
    prob: Probability = 0.5
    fill: Colour = MEAN_COLOUR

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
