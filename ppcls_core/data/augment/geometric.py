"""Shears, shifts and turns of the picture within its frame, as Pillow's `transform` makes them.

Each takes and gives uint8 RGB [H, W, 3]; what enters from outside has the colour `fill`. Sampling
is the published policies': shears cubic, shifts by whole pixels, turns by the nearest pixel.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ppcls_core.data.augment.common import Colour, plain


def shear_x(image: np.ndarray, slope: float, fill: Colour) -> np.ndarray:
    """Row y moved left by `slope` x y pixels."""
    return _warped(image, [[1, slope, 0], [0, 1, 0]], cv2.INTER_CUBIC, fill)


def shear_y(image: np.ndarray, slope: float, fill: Colour) -> np.ndarray:
    """Column x moved up by `slope` x x pixels."""
    return _warped(image, [[1, 0, 0], [slope, 1, 0]], cv2.INTER_CUBIC, fill)


def translate_x(image: np.ndarray, share: float, fill: Colour) -> np.ndarray:
    """Moved left by `share` of the width."""
    height, width = image.shape[:2]
    shift = max(-width, min(width, math.floor(share * width + 0.5)))
    out = plain((height, width), fill)
    out[:, max(0, -shift) : width - max(0, shift)] = image[:, max(0, shift) : width + min(0, shift)]
    return out


def translate_y(image: np.ndarray, share: float, fill: Colour) -> np.ndarray:
    """Moved up by `share` of the height."""
    height, width = image.shape[:2]
    shift = max(-height, min(height, math.floor(share * height + 0.5)))
    out = plain((height, width), fill)
    out[max(0, -shift) : height - max(0, shift)] = image[max(0, shift) : height + min(0, shift)]
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
