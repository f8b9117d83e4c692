"""Operators that draw from the fourteen operations: AutoAugment and RandAugment."""

from typing import Literal

import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment.common import Colour
from ppcls_core.data.augment.operations import NAMES, operate

MAX_INDEX = 9  # magnitude indices are 0 to 9
MAX_MAGNITUDE = 10

# Table 9: two steps a sub-policy, (operation, probability, magnitude index). As published, the last
# five repeat others, which doubles their chance.
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


class AutoAugment(Config):
    """One of 25 sub-policies, each of its two steps by its own probability.

    The policy found on ImageNet: Cubuk et al. 2018, appendix.

    The direction of shears, turns and enhancements is drawn, both ways alike.
    """

    name: Literal["AutoAugment"] = "AutoAugment"
    fill: Colour = (128, 128, 128)  # of what enters from outside the picture

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        which, *draws = rng.random(5).tolist()
        steps = POLICY[int(which * len(POLICY))]
        for (name, prob, index), chance, sign in zip(steps, draws[:2], draws[2:], strict=True):
            if chance < prob:
                amount = index / MAX_INDEX
                image = operate(image, name, amount if sign < 0.5 else -amount, self.fill)
        return image


class RandAugment(Config):
    """`num_layers` operations in a row, each drawn from all fourteen, its direction as well.

    Cubuk et al. 2019, with PaddleClas's fourteen operations.

    Every operation grows with the magnitude. In the original posterise and solarise shrink with it
    (at 10 they are the weakest), and it turns counter-clockwise only. At the default of 5 posterise
    therefore keeps 6 bits, the original 2; solarise is the same.
    """

    name: Literal["RandAugment"] = "RandAugment"
    num_layers: int = Field(default=2, ge=0)  # operations an image
    magnitude: float = Field(default=5, ge=0, le=MAX_MAGNITUDE)  # strength of each
    fill: Colour = (128, 128, 128)  # of what enters from outside the picture

    def __call__(self, image: np.ndarray, rng: np.random.Generator, progress: float) -> np.ndarray:
        amount = self.magnitude / MAX_MAGNITUDE
        for which, sign in rng.random((self.num_layers, 2)).tolist():
            name = NAMES[int(which * len(NAMES))]
            image = operate(image, name, amount if sign < 0.5 else -amount, self.fill)
        return image
