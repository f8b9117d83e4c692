"""RandAugment: Cubuk et al. 2019, with PaddleClas's fourteen operations."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import Colour
from ppcls_core.data.augment.operations import NAMES, operate

MAX_MAGNITUDE = 10


class RandAugment(Config):
    """`num_layers` operations in a row, each drawn from all fourteen, its direction as well.

    Every operation grows with the magnitude. In the original posterise and solarise shrink with it
    (at 10 they are the weakest), and it turns counter-clockwise only. At the default of 5 posterise
    therefore keeps 6 bits, the original 2; solarise is the same.
    """

    name: Literal["RandAugment"] = "RandAugment"
    num_layers: int = Field(default=2, ge=0)
    magnitude: float = Field(default=5, ge=0, le=MAX_MAGNITUDE)
    fill: Colour = (128, 128, 128)  # of what enters from outside the picture

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        amount = self.magnitude / MAX_MAGNITUDE
        for which, sign in rng.random((self.num_layers, 2)).tolist():
            name = NAMES[int(which * len(NAMES))]
            image = operate(image, name, amount if sign < 0.5 else -amount, self.fill)
        return image
