"""Operators that mix each image of a batch with another of it, one share for the whole batch.

Each is called with (pixels uint8 [N, 3, H, W], labels int64 [N], generator) and writes to neither.
Labels and weight of what it gives are those of a mixture's first image, `other_labels` the other's.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from data_catalog.base.config import Config
from ppcls_core.data.batch import Batch

Positive = Annotated[float, Field(gt=0)]


class Mixup(Config):
    """Pixels weight x a + (1 - weight) x b, weight by Beta(alpha, alpha). Zhang et al. 2017.

    Rounded to the nearest grey level: within 0.501 of the exact mixture, which is 0.009 after the
    normalisation.
    """

    name: Literal["Mixup"] = "Mixup"
    alpha: Positive = 0.2  # of the Beta distribution

    def __call__(self, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        order = rng.permutation(len(pixels))
        weight = float(rng.beta(self.alpha, self.alpha))
        planes = _planes(pixels)
        out = np.empty_like(planes)
        for image, other, to in zip(planes, order, out, strict=True):
            cv2.addWeighted(image, weight, planes[other], 1 - weight, 0, dst=to)
        return _mixed(out.reshape(pixels.shape), labels, order, weight)


class CutMix(Config):
    """A box of the other image, of area 1 - Beta(alpha, alpha) and the image's aspect, pasted in.

    Its middle is any pixel, and it is cut off at the border; the weight is the exact share of the
    pixels left. Yun et al. 2019.
    """

    name: Literal["CutMix"] = "CutMix"
    alpha: Positive = 0.2  # of the Beta distribution

    def __call__(self, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        order = rng.permutation(len(pixels))
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        height, width = pixels.shape[2:]
        rows, columns = (
            _span(int(middle * length), int(side * length), length)
            for middle, length in zip(rng.random(2).tolist(), (height, width), strict=True)
        )
        out = pixels.copy()
        out[:, :, rows, columns] = pixels[order, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return _mixed(out, labels, order, 1 - area / (height * width))


class FMix(Config):
    """Pixels of the other image where a random field of low frequencies is high.

    The weight is Beta(alpha, alpha), rounded to whole pixels: exactly the share of the pixels left.
    Harris et al. 2020. (Their code, which PaddleClas has as well, takes only the two lowest of the
    horizontal frequencies, by a slip of an index; this is the paper's field.)
    """

    name: Literal["FMix"] = "FMix"
    alpha: Positive = 1.0  # of the Beta distribution
    decay: Positive = 3.0  # amplitudes fall with the frequency to this power

    def __call__(self, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        order = rng.permutation(len(pixels))
        weight = rng.beta(self.alpha, self.alpha)
        field = _low_frequencies(pixels.shape[2:], self.decay, rng)
        num_kept = round(weight * field.size)
        mask = np.zeros(field.size, np.uint8)
        last = min(num_kept, field.size - 1)  # argpartition takes no index behind the last
        mask[np.argpartition(field, last, axis=None)[num_kept:]] = 1
        mask = np.tile(mask.reshape(field.shape), (3, 1))  # for the three planes, as `_planes`
        planes = _planes(pixels)
        out = planes.copy()
        for other, to in zip(order, out, strict=True):
            cv2.copyTo(planes[other], mask, to)
        return _mixed(out.reshape(pixels.shape), labels, order, num_kept / field.size)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """[N, 3, H, W] as [N, 3 H, W]: one picture each for OpenCV, whose channels come last."""
    return np.ascontiguousarray(pixels).reshape(len(pixels), -1, pixels.shape[3])


def _span(middle: int, length: int, end: int) -> slice:
    """`length` positions, an odd one less, about `middle`, within [0, end)."""
    return slice(max(0, middle - length // 2), min(end, middle + length // 2))


def _low_frequencies(shape: tuple[int, int], decay: float, rng: np.random.Generator) -> np.ndarray:
    """A real field of `shape` (height, width) whose amplitudes fall by 1 / frequency^decay."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    amplitude = np.maximum(frequency, 1 / max(shape)) ** -decay  # finite at frequency 0
    noise = np.fft.rfft2(rng.standard_normal(shape))
    return np.fft.irfft2(amplitude * noise, s=shape)


def _mixed(
    pixels: np.ndarray, labels: np.ndarray, order: Sequence[int] | np.ndarray, weight: float
) -> Batch:
    return Batch(pixels, labels, labels[order], np.full(len(labels), weight, np.float32))
