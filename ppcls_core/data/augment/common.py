"""Types of the operators' settings, the fill colour, resizing, masking.

Every operator draws a fixed number of values by `rng.random`, whatever the image: the draws of what
follows it do not shift with an image's size. (`rng.integers` draws a varying number.)
"""

from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
from pydantic import AfterValidator, Field

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean RGB in whole grey levels; normalised it is within 0.009 of 0 (exactly 0 is what
the original writes, which masks after the normalisation)."""


def _ascending(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1]:
        raise ValueError("expected two positive numbers, the smaller first")
    return interval


def _within_one(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[1] > 1:
        raise ValueError("expected shares of the area, at most 1")
    return interval


Probability = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[tuple[float, float], AfterValidator(_ascending)]  # a uniform draw between
Shares = Annotated[Interval, AfterValidator(_within_one)]  # of the image's area
Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]  # RGB
Side = Annotated[int, Field(gt=0)]  # pixels
Size = Side | tuple[Side, Side]  # a square's side, or (height, width)
Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]

Draw = TypeVar("Draw", float, np.ndarray)
INTERPOLATIONS: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


def between(interval: tuple[float, float], share: Draw) -> Draw:
    """The place `share`, in [0, 1), of the way from the first end of `interval` to the second."""
    return interval[0] + (interval[1] - interval[0]) * share


def sides(size: Size) -> tuple[int, int]:
    """(height, width) of `size`."""
    return (size, size) if isinstance(size, int) else size


def resized(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """`image` at `size` (height, width); itself where it has that size."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=INTERPOLATIONS[interpolation])


def plain(shape: tuple[int, int], colour: Colour) -> np.ndarray:
    """A new uint8 RGB image of one colour, `shape` (height, width)."""
    height, width = shape
    out = np.empty((height, width, 3), np.uint8)
    # By rows: assigning three values a pixel is 60 times slower.
    out.reshape(height, -1)[:] = np.tile(np.array(colour, np.uint8), width)
    return out


def hidden(image: np.ndarray, mask: np.ndarray, fill: Colour) -> np.ndarray:
    """A copy of `image` with `fill` where `mask` (bool or uint8 [H, W]) is not 0."""
    keep = (mask == 0).view(np.uint8)
    return cv2.copyTo(image, keep, plain(image.shape[:2], fill))


def hidden_box(
    image: np.ndarray, top_left: tuple[int, int], size: tuple[int, int], fill: Colour
) -> np.ndarray:
    """A copy of `image`, filled in the box `size` (h, w) at `top_left` (y, x), as far as inside."""
    y, x = max(0, top_left[0]), max(0, top_left[1])
    y_end, x_end = max(0, top_left[0] + size[0]), max(0, top_left[1] + size[1])
    out = image.copy()
    box = out[y:y_end, x:x_end]
    box[:] = plain(box.shape[:2], fill)
    return out
