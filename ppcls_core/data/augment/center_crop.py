"""The middle of an image."""

from __future__ import annotations

from typing import Literal

import numpy as np

from data_catalog.base.config import Config, UserError
from ppcls_core.data.augment.common import Size, sides


class CenterCrop(Config):
    """The middle box of `size`, a view of the image.

    Raises:
        UserError: the image is smaller.
    """

    name: Literal["CenterCrop"] = "CenterCrop"
    size: Size = 224

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        (height, width), (h, w) = image.shape[:2], sides(self.size)
        if h > height or w > width:
            raise UserError(
                f"CenterCrop of {h} x {w} pixels got an image of {height} x {width}: put a Resize "
                f"to a short side of at least {max(h, w)} before it"
            )
        y, x = (height - h) // 2, (width - w) // 2
        return image[y : y + h, x : x + w]
