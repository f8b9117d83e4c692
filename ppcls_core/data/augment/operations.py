"""The fourteen operations of AutoAugment and RandAugment, each scaled by one amount.

An amount is in [-1, 1]: 0 leaves the image as it is, 1 is the strongest change of Cubuk et al. 2018
(table 6). The sign is a direction; operations without one take its absolute value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppcls_core.data.augment.common import Colour
from ppcls_core.data.augment.geometric import rotate, shear_x, shear_y, translate_x, translate_y
from ppcls_core.data.augment.photometric import (
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    invert,
    posterize,
    sharpness,
    solarize,
)

MAX_SHEAR = 0.3
MAX_SHIFT = 150 / 331  # of the side: the published 150 pixels of 331
MAX_DEGREES = 30
MAX_ENHANCE = 0.9  # factors are in [0.1, 1.9]
MIN_BITS = 4

# "color", "posterize" and so on are the published names, hence their spelling.
OPERATIONS: dict[str, Callable[[np.ndarray, float, Colour], np.ndarray]] = {
    "shear_x": lambda image, amount, fill: shear_x(image, MAX_SHEAR * amount, fill),
    "shear_y": lambda image, amount, fill: shear_y(image, MAX_SHEAR * amount, fill),
    "translate_x": lambda image, amount, fill: translate_x(image, MAX_SHIFT * amount, fill),
    "translate_y": lambda image, amount, fill: translate_y(image, MAX_SHIFT * amount, fill),
    "rotate": lambda image, amount, fill: rotate(image, MAX_DEGREES * amount, fill),
    "color": lambda image, amount, fill: color(image, 1 + MAX_ENHANCE * amount),
    "posterize": lambda image, amount, fill: posterize(
        image, 8 - round((8 - MIN_BITS) * abs(amount))
    ),
    "solarize": lambda image, amount, fill: solarize(image, 256 * (1 - abs(amount))),
    "contrast": lambda image, amount, fill: contrast(image, 1 + MAX_ENHANCE * amount),
    "sharpness": lambda image, amount, fill: sharpness(image, 1 + MAX_ENHANCE * amount),
    "brightness": lambda image, amount, fill: brightness(image, 1 + MAX_ENHANCE * amount),
    "autocontrast": lambda image, amount, fill: autocontrast(image),
    "equalize": lambda image, amount, fill: equalize(image),
    "invert": lambda image, amount, fill: invert(image),
}
NAMES = tuple(OPERATIONS)
ALWAYS = frozenset({"autocontrast", "equalize", "invert"})  # there is no weaker form of these


def operate(image: np.ndarray, name: str, amount: float, fill: Colour) -> np.ndarray:
    """`image` after the operation `name`; itself where the amount is 0 and that means nothing."""
    if amount == 0 and name not in ALWAYS:
        return image
    return OPERATIONS[name](image, amount, fill)
