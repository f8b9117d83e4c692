"""Cutout: DeVries and Taylor 2017."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import MEAN_COLOUR, Colour, Side, hidden_box


class Cutout(Config):
    """Squares whose middle is any pixel, cut off at the border, are hidden."""

    name: Literal["Cutout"] = "Cutout"
    num_holes: int = Field(default=1, ge=0)
    length: Side = 112
    fill: Colour = MEAN_COLOUR

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        height, width = image.shape[:2]
        for down, right in rng.random((self.num_holes, 2)).tolist():
            y, x = int(down * height) - self.length // 2, int(right * width) - self.length // 2
            image = hidden_box(image, (y, x), (self.length, self.length), self.fill)
        return image
