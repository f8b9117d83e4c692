"""RootSIFT features of a picture, and those of its mirror image without a second extraction.

Coordinates are continuous: x to the right, y down, the origin at the outer corner of the top left
pixel (a pixel's centre is at +0.5), so that resizing is a pure scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_core.dedup.config import DedupConfig

DIMENSION = 128  # 4 rows x 4 columns x 8 orientations
LONG_SIDE = 4  # x `side`: bound on the long side of panoramas
GRID = 4  # cells a side over which the keypoints are spread,
ROUND = 4  # so many of each cell at a time


@dataclass(frozen=True)
class Features:
    """Keypoints of one picture: `points` float32 [n, 4] (x, y, size, angle in radians, clockwise
    from the x axis), `descriptors` uint8 [n, 128]."""

    points: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def part(self, count: int) -> Features:
        """The first `count` of them."""
        return Features(self.points[:count], self.descriptors[:count])

    def __add__(self, other: Features) -> Features:
        points = np.concatenate([self.points, other.points])
        return Features(points, np.concatenate([self.descriptors, other.descriptors]))


def reduce(image: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Grey uint8 copy of an RGB picture [H, W, 3] at the size at which features are taken."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    short, long = sorted(grey.shape)
    scale = min(max(1.0, config.min_side / short), config.side / short)
    scale = min(scale, LONG_SIDE * config.side / long)
    if scale == 1:
        return grey
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(grey, (width, height), interpolation=how)


def shrink(grey: np.ndarray, side: int) -> np.ndarray:
    """The picture with a short side of at most `side` pixels."""
    scale = side / min(grey.shape)
    if scale >= 1:
        return grey
    size = [max(1, round(length * scale)) for length in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def extract(grey: np.ndarray, config: DedupConfig, count: int) -> Features:
    """Features of a grey uint8 picture, at most `count`, the strongest of each region first; so the
    first of them stand for the whole picture.

    Lowe 2004; RootSIFT: Arandjelovic and Zisserman 2012.
    """
    sift = cv2.SIFT.create(
        nfeatures=2 * count,
        contrastThreshold=config.contrast_threshold,
        enable_precise_upscale=True,
    )
    keypoints, raw = sift.detectAndCompute(grey, None)
    if not keypoints:
        return Features(np.zeros((0, 4), np.float32), np.zeros((0, DIMENSION), np.uint8))
    rows = [(*k.pt, k.size, k.angle, k.response) for k in keypoints]
    table = np.array(rows, np.float64)
    table[:, :2] += 0.5
    table[:, 3] = np.radians(table[:, 3])
    kept = _spread(table, grey.shape, count)
    return Features(table[kept, :4].astype(np.float32), _root(raw[kept]))


def _spread(table: np.ndarray, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Rows of the `count` keypoints to keep: the strongest of each grid cell before others, so that
    lettering laid over a picture does not push out the rest of it."""
    height, width = shape
    column = np.clip(table[:, 0] * GRID / width, 0, GRID - 1).astype(int)
    row = np.clip(table[:, 1] * GRID / height, 0, GRID - 1).astype(int)
    order = np.lexsort((table[:, 3], table[:, 1], table[:, 0], -table[:, 4]))
    rank = np.zeros(len(table), int)
    for cell in range(GRID * GRID):
        members = order[(row * GRID + column)[order] == cell]
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank[order] // ROUND, kind="stable")][:count]


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Hellinger-mapped descriptors as uint8 (unit length times 512, clipped)."""
    total = descriptors.sum(axis=1, keepdims=True)
    return np.minimum(np.sqrt(descriptors / np.maximum(total, 1)) * 512 + 0.5, 255).astype(np.uint8)


_BINS = np.arange(DIMENSION).reshape(4, 4, 8)
# Bins of the original patch that those of the altered patch equal. The patch's frame is turned so
# that its dominant gradient lies on the x axis. Mirroring the picture flips that frame's y axis:
# the rows of cells swap and each orientation is negated. A negative turns the frame by 180 degrees.
MIRROR = _BINS[::-1][:, :, -np.arange(8) % 8].reshape(-1)
NEGATE = _BINS[::-1, ::-1].reshape(-1)


def mirror(features: Features, width: float) -> Features:
    """Features of the left-right mirrored picture, `width` pixels wide."""
    points = features.points.copy()
    points[:, 0] = width - points[:, 0]
    points[:, 3] = np.pi - points[:, 3]
    return Features(points, features.descriptors[:, MIRROR])


def negate(features: Features) -> Features:
    """Features of the picture's negative."""
    points = features.points.copy()
    points[:, 3] += np.pi
    return Features(points, features.descriptors[:, NEGATE])
