"""Do two pictures agree pixel for pixel, where one is laid over the other?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

WINDOW = 7  # pixels of a thumbnail: the neighbourhood in which pixels are correlated
FLAT = 2.5  # grey levels: a neighbourhood with less deviation has no texture to compare
NOISE = 0.5  # variance added to both, so that noise does not correlate
SAME = 0.6  # correlation of a neighbourhood that agrees
MIN_TEXTURED = 500  # pixels of a thumbnail (of 16,384) without which nothing can be said
MIN_CORNERS = 500  # pixels of a thumbnail amid corners: one smooth contour fits many pictures
CORNER = 4.0  # smaller eigenvalue of the structure tensor amid corners, (grey levels / pixel)^2 * 4


@dataclass(frozen=True)
class Agreement:
    """`share` of the textured pixels that agree; `overlap`: the common part's share of either
    picture's area, the larger of the two."""

    share: float
    overlap: float


def compare(pool: np.ndarray, val: np.ndarray, affine: np.ndarray) -> Agreement:
    """Agreement of two grey uint8 pictures where `affine` [2, 3] lays `pool` over `val`."""
    warped, inside = warp(pool, val.shape, affine)
    common = int(np.count_nonzero(inside))
    area = abs(float(np.linalg.det(affine[:, :2]))) * pool.size
    overlap = min(1.0, max(common / val.size, common / max(area, 1e-9)))
    return Agreement(agreement(warped, val, inside), overlap)


def agreement(a: np.ndarray, b: np.ndarray, inside: np.ndarray | None = None) -> float:
    """Share of the textured pixels (of either picture, within the mask `inside`) whose
    neighbourhoods correlate; 0 when there is too little texture to tell. Changes of brightness and
    contrast do not matter."""
    x, y = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in (a, b))
    mean_x, mean_y = _mean(x), _mean(y)
    var_x = np.maximum(_mean(x * x) - mean_x**2, 0)
    var_y = np.maximum(_mean(y * y) - mean_y**2, 0)
    covariance = _mean(x * y) - mean_x * mean_y
    textured = np.maximum(var_x, var_y) > FLAT**2
    same = covariance > SAME * np.sqrt((var_x + NOISE) * (var_y + NOISE))
    if inside is not None:
        within = cv2.erode(inside, np.ones((3, 3), np.uint8)) > 0
        textured, same = textured & within, same & within
    total = int(np.count_nonzero(textured))
    if total < MIN_TEXTURED:
        return 0.0
    return np.count_nonzero(same & textured) / total


def num_corners(thumb: np.ndarray) -> int:
    """Pixels of a thumbnail (uint8) whose neighbourhood varies in two directions."""
    smooth = cv2.GaussianBlur(thumb.astype(np.float32), (0, 0), 1.0)
    return int(np.count_nonzero(cv2.cornerMinEigenVal(smooth, WINDOW, ksize=3) > CORNER))


def warp(
    pool: np.ndarray, shape: tuple[int, ...], affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`pool` laid over a picture of `shape`, and a uint8 mask of where it lies."""
    height, width = shape[:2]
    scale = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    if scale < 0.8:  # reduce by areas first: the warp itself only samples
        size = tuple(max(1, round(side * scale)) for side in pool.shape[::-1])
        step = np.diag([pool.shape[1] / size[0], pool.shape[0] / size[1]])
        pool = cv2.resize(pool, size, interpolation=cv2.INTER_AREA)
        affine = np.column_stack([affine[:, :2] @ step, affine[:, 2]])
    centred = affine.copy()  # to OpenCV's coordinates, with the origin in the first pixel's centre
    centred[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
    warped = cv2.warpAffine(pool, centred, (width, height), borderMode=cv2.BORDER_REPLICATE)
    full = np.full(pool.shape, 255, np.uint8)
    inside = cv2.warpAffine(full, centred, (width, height), flags=cv2.INTER_NEAREST)
    return warped, inside


def _mean(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT_101)
