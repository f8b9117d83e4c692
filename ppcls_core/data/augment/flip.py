"""Mirroring."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import Probability

FLIP_CODES = {"horizontal": 1, "vertical": 0, "both": -1}  # OpenCV's


class RandomFlip(Config):
    """Mirror left and right (`horizontal`), top and bottom (`vertical`), or turn by 180 degrees."""

    name: Literal["RandomFlip"] = "RandomFlip"
    prob: Probability = 0.5
    axis: Literal["horizontal", "vertical", "both"] = "horizontal"

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        return cv2.flip(image, FLIP_CODES[self.axis])
