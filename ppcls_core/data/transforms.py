"""Pixels to network input: the classic training and test-time preprocessing on uint8 images.

Each transform is a pure function of (image, generator). Normalisation happens on the device, as the
network wants it (`networks.layers.normalize`), so that batches travel as uint8.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.augment import Operator, RandomCrop, apply
from ppcls_core.data.augment.common import Interpolation, resized, sides
from ppcls_core.data.augment.crop import MAX_ASPECT, middle
from ppcls_core.data.decode import Part

CROP_RATIO = 0.875  # 224 of a short side of 256


class Preprocess(Config):
    """Test-time preprocessing: the short side resized, the middle cut out."""

    size: int = Field(default=224, ge=16)  # side of what is cut out, pixels
    short: int | None = Field(default=None, ge=16)  # None: size / 0.875, as 256 is of 224
    interpolation: Interpolation | None = None  # None: area to shrink, linear to enlarge

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [H, W, 3] to uint8 [3, size, size].

        Of a strip only the middle is resized: enlarging all of 16 x 6,000,000 pixels takes 70 GB.
        """
        size, image = self.size, middle(image, MAX_ASPECT * min(image.shape[:2]))
        height, width = image.shape[:2]
        scale = (self.short or round(size / CROP_RATIO)) / min(height, width)
        w, h = max(size, round(width * scale)), max(size, round(height * scale))
        out = resized(image, (h, w), self.interpolation or ("area" if scale < 1 else "linear"))
        x, y = (w - size) // 2, (h - size) // 2
        return np.ascontiguousarray(out[y : y + size, x : x + size].transpose(2, 0, 1))


def train_transform(
    image: np.ndarray, operators: Sequence[Operator], rng: np.random.Generator, progress: float
) -> np.ndarray:
    """uint8 RGB [H, W, 3] to uint8 [3, H', W'], after `operators` in turn."""
    out = apply(operators, image, rng, progress)
    planes: np.ndarray = np.empty((3, *out.shape[:2]), np.uint8)
    # Into them: 7 times faster than a copy of the transpose.
    cv2.split(out, [planes[0], planes[1], planes[2]])
    return planes


def needed(
    operators: Sequence[Operator], shape: tuple[int, int], fresh: Callable[[], np.random.Generator]
) -> Part:
    """The part of a JPEG of `shape` (height, width) that `operators` need decoded.

    Of a random crop, if it comes first, the box is drawn before anything is decoded, by a generator
    that `fresh` gives anew at each call. Rows under the box are not needed.
    """
    crop = operators[0] if operators else None
    if not isinstance(crop, RandomCrop):
        return Part()
    divisor = reduction(operators, shape, fresh)
    height, width = shape
    y, _, rows, _ = crop.box((-(-height // divisor), -(-width // divisor)), fresh())
    return Part(divisor, y + rows)


def reduction(
    operators: Sequence[Operator], shape: tuple[int, int], fresh: Callable[[], np.random.Generator]
) -> int:
    """Divisor that the sides of an image of `shape` (height, width) bear before `operators`.

    8, 4, 2 or 1: the largest that leaves the random crop, if it comes first, a box at least as
    large as its output. The box scales with the image, so it is drawn from the shape, by a
    generator that `fresh` gives anew at each call, before anything is decoded. The result is about
    as near to a resize by area as a linear resize of the whole, which skips pixels.
    """
    crop = operators[0] if operators else None
    if not isinstance(crop, RandomCrop) or crop.interpolation not in ("linear", "area"):
        return 1
    assert crop.size is not None, "see `sized`"
    height, width = sides(crop.size)
    if min(shape) < 2 * min(height, width):
        return 1  # without a draw: at 224 pixels that is most of ImageNet
    # EXIF may turn the image, so the box has to be large enough either way.
    boxes = [crop.box(turned, fresh())[2:] for turned in (shape, (shape[1], shape[0]))]
    fits = (n for n in (8, 4, 2) if all(h >= n * height and w >= n * width for h, w in boxes))
    return next(fits, 1)
