"""Changes of colour, as Pillow's ImageOps and ImageEnhance make them.

Each takes and gives uint8 RGB [H, W, 3] and leaves its input alone. All equal Pillow's result but
`color` and `sharpness`, which round once where Pillow rounds twice, and `contrast`, whose grey mean
is OpenCV's: these are within 1 grey level of it. A factor of 1 is the identity.
"""

from __future__ import annotations

import cv2
import numpy as np

LEVELS = np.arange(256)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, of R, G, B
TRUNCATE = -0.498  # added before OpenCV rounds, as Pillow truncates; integers must not drop by one
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH


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
