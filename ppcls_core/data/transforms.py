"""Pixels to network input: the classic training and test-time preprocessing on uint8 images.

Each transform is a pure function of (image, generator). Normalisation happens on the device, in the
model's dtype (`normalize`), so that batches travel as uint8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import Field

from data_catalog.config import Config

if TYPE_CHECKING:
    from paddle import Tensor

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of values in [0, 1]
STD = (0.229, 0.224, 0.225)
CROP_RATIO = 0.875  # 224 of a short side of 256
MAX_ASPECT = 4  # longer images are cut to it before they are resized


class Augmentation(Config):
    """Random crop, flip and colour of a training image."""

    min_area: float = Field(default=0.08, gt=0, le=1)  # smallest crop, share of the area
    flip: float = Field(default=0.5, ge=0, le=1)  # probability of mirroring
    brightness: float = Field(default=0.0, ge=0, lt=1)  # of all channels; each by 0.3 of it more


def train_transform(
    image: np.ndarray, size: int, config: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """uint8 RGB [H, W, 3] to uint8 [3, size, size]: random crop, resize, flip, colour."""
    crop = random_crop(image, config.min_area, rng)
    out = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < config.flip:
        out = out[:, ::-1]
    if config.brightness:
        gain = (
            1
            + config.brightness * rng.uniform(-1, 1)
            + 0.3 * config.brightness * rng.uniform(-1, 1, 3)
        )
        out = np.clip(out * gain.astype(np.float32), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def random_crop(image: np.ndarray, min_area: float, rng: np.random.Generator) -> np.ndarray:
    """A crop of area in [min_area, 1] and aspect in [3/4, 4/3], clipped so that it fits.

    Szegedy et al. 2015 (Inception); the clipping keeps every draw usable.
    """
    height, width = image.shape[:2]
    aspect = np.sqrt(rng.uniform(3 / 4, 4 / 3))
    bound = min(width / height / aspect**2, height / width * aspect**2)
    scale_max = min(1.0, bound)
    scale_min = min(min_area, bound)
    side = np.sqrt(height * width * rng.uniform(scale_min, scale_max))
    w, h = max(1, min(width, int(side * aspect))), max(1, min(height, int(side / aspect)))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return image[y : y + h, x : x + w]


def test_transform(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 RGB [H, W, 3] to uint8 [3, size, size]: short side to size / 0.875, centre crop.

    Of a strip only the middle is resized: enlarging all of 16 x 6,000,000 pixels takes 70 GB.
    """
    image = _middle(image, MAX_ASPECT * min(image.shape[:2]))
    height, width = image.shape[:2]
    scale = round(size / CROP_RATIO) / min(height, width)
    w, h = max(size, round(width * scale)), max(size, round(height * scale))
    out = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = (w - size) // 2, (h - size) // 2
    return np.ascontiguousarray(out[y : y + size, x : x + size].transpose(2, 0, 1))


def _middle(image: np.ndarray, longest: int) -> np.ndarray:
    """The middle of `image`, no side of it above `longest`."""
    height, width = image.shape[:2]
    y, x = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[y : y + longest, x : x + longest]


def normalize(images: np.ndarray) -> Tensor:
    """uint8 [N, 3, H, W] to a float32 tensor on the device, with ImageNet's mean and deviation."""
    import paddle

    mean = paddle.to_tensor(MEAN, "float32").reshape([1, 3, 1, 1])
    std = paddle.to_tensor(STD, "float32").reshape([1, 3, 1, 1])
    return (paddle.to_tensor(images).astype("float32") / 255 - mean) / std
