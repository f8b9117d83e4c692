"""The fourteen operations of AutoAugment and RandAugment, as Pillow makes them.

Each takes and gives uint8 RGB [H, W, 3] and leaves its input alone. Shears, shifts and turns keep
the frame; what enters from outside has the colour `fill`. Sampling is the published policies':
shears cubic, shifts by whole pixels, turns by the nearest pixel.

All changes of colour equal Pillow's result but `color` and `sharpness`, which round once where
Pillow rounds twice, and `contrast`, whose grey mean is OpenCV's: these are within 1 grey level of
it. A factor of 1 is the identity.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from ppcls_core.data.augment.common import Colour, plain

MAX_SHEAR = 0.3
MAX_SHIFT = 150 / 331  # of the side: the published 150 pixels of 331
MAX_DEGREES = 30
MAX_ENHANCE = 0.9  # factors are in [0.1, 1.9]
MIN_BITS = 4
LEVELS = np.arange(256)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, of R, G, B
TRUNCATE = -0.498  # added before OpenCV rounds, as Pillow truncates; integers must not drop by one
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH


def shear_x(image: np.ndarray, slope: float, fill: Colour) -> np.ndarray:
    """Row y moved left by `slope` x y pixels."""
    return _warped(image, [[1, slope, 0], [0, 1, 0]], cv2.INTER_CUBIC, fill)


def shear_y(image: np.ndarray, slope: float, fill: Colour) -> np.ndarray:
    """Column x moved up by `slope` x x pixels."""
    return _warped(image, [[1, 0, 0], [slope, 1, 0]], cv2.INTER_CUBIC, fill)


def translate(image: np.ndarray, axis: int, share: float, fill: Colour) -> np.ndarray:
    """Moved by `share` of the height up (`axis` 0), or of the width to the left (1)."""
    out, length = plain(image.shape[:2], fill), image.shape[axis]
    shift = max(-length, min(length, math.floor(share * length + 0.5)))
    to, of = (slice(max(0, s), length + min(0, s)) for s in (-shift, shift))
    out.swapaxes(0, axis)[to] = image.swapaxes(0, axis)[of]
    return out


def rotate(image: np.ndarray, degrees: float, fill: Colour) -> np.ndarray:
    """Turned about the middle, counter-clockwise."""
    y, x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]
    return _warped(image, matrix, cv2.INTER_NEAREST, fill)


def _warped(
    image: np.ndarray, matrix: list[list[float]], interpolation: int, fill: Colour
) -> np.ndarray:
    """`matrix` [2, 3] takes a place (x, y, 1) of the result to its place in `image`.

    Places are Pillow's: the first pixel's centre is at (0.5, 0.5). OpenCV's is at (0, 0).
    """
    places = np.array(matrix)
    places[:, 2] += (places[:, 0] + places[:, 1]) / 2 - 0.5
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, places, image.shape[1::-1], flags=flags, borderValue=fill)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from black: 0 is black."""
    return cv2.LUT(image, _away_from(0, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean grey: 0 is that grey."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.LUT(image, _away_from(mean, factor))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the grey image: 0 is that image."""
    matrix = factor * np.eye(3) + (1 - factor) * LUMA
    return cv2.transform(image, np.column_stack([matrix, np.full(3, TRUNCATE)]))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the smoothed image: 0 is that image. The outermost pixels stay as they are."""
    kernel = (1 - factor) * SMOOTH
    kernel[1, 1] += factor
    out = cv2.filter2D(image, -1, kernel, delta=TRUNCATE)
    out[0], out[-1], out[:, 0], out[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return out


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """The highest `bits` of 8 of every value."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Values from `threshold` on are inverted; 256 is the identity."""
    return cv2.LUT(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8))


def invert(image: np.ndarray) -> np.ndarray:
    """255 minus each value."""
    return cv2.bitwise_not(image)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched from its lowest and highest value to 0 and 255."""
    lows, highs = image.min(0).min(0).tolist(), image.max(0).max(0).tolist()
    return _by_channel(image, [_stretch(*ends) for ends in zip(lows, highs, strict=True)])


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel's histogram made even, by Pillow's rule (OpenCV's equalizeHist has another)."""
    counts = [cv2.calcHist([image], [c], None, [256], [0, 256]) for c in range(3)]
    return _by_channel(image, [_even(count.ravel().astype(np.int64)) for count in counts])


def _away_from(level: int, factor: float) -> np.ndarray:
    """Table of level + factor x (value - level), truncated. In float32, as Pillow's blend is."""
    values = np.float32(level) + np.float32(factor) * (LEVELS - level).astype(np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


def _stretch(low: int, high: int) -> np.ndarray:
    if low == high:
        return LEVELS.astype(np.uint8)
    scale = 255 / (high - low)
    return np.clip(LEVELS * scale - low * scale, 0, 255).astype(np.uint8)


def _even(counts: np.ndarray) -> np.ndarray:
    below = np.cumsum(counts) - counts
    step = int(below[np.flatnonzero(counts)[-1]]) // 255  # the highest value's pixels do not count
    if step == 0:
        return LEVELS.astype(np.uint8)
    return np.minimum((step // 2 + below) // step, 255).astype(np.uint8)


def _by_channel(image: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    return cv2.LUT(image, np.stack(tables, axis=-1)[None])


# "color", "posterize" and so on are the published names, hence their spelling.
OPERATIONS: dict[str, Callable[[np.ndarray, float, Colour], np.ndarray]] = {
    "shear_x": lambda image, amount, fill: shear_x(image, MAX_SHEAR * amount, fill),
    "shear_y": lambda image, amount, fill: shear_y(image, MAX_SHEAR * amount, fill),
    "translate_x": lambda image, amount, fill: translate(image, 1, MAX_SHIFT * amount, fill),
    "translate_y": lambda image, amount, fill: translate(image, 0, MAX_SHIFT * amount, fill),
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
    """`image` after the operation `name`; itself where the amount is 0 and that means nothing.

    An amount is in [-1, 1]: 1 is the strongest change of Cubuk et al. 2018 (table 6). The sign is a
    direction; operations without one take its absolute value.
    """
    if amount == 0 and name not in ALWAYS:
        return image
    return OPERATIONS[name](image, amount, fill)
