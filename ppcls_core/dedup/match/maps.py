"""Maps of the plane: fitted to points by least squares, and whether a picture may be mapped so."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ppcls_core.dedup.match.pixels import apply

SCALES = (0.08, 12.0)  # plausible enlargements of pool over val
MAX_STRETCH = 2.5  # plausible ratio of the two axes' scales
MAX_BEND = 3.0  # plausible ratio of a homography's scales over the picture
MIN_SPREAD = 4.0  # pixels: inliers must not sit on one spot or one line

Solve = Callable[[np.ndarray, np.ndarray], np.ndarray | None]


def spread(points: np.ndarray) -> bool:
    """Whether the points [n, 2] lie neither on one spot nor on one line."""
    centred = points[:, :2] - points[:, :2].mean(axis=0)
    return float(np.linalg.svd(centred, compute_uv=False)[-1]) / np.sqrt(len(points)) > MIN_SPREAD


def fit_similarity(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v`: turn, zoom and shift."""
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    dp, dv = zp - zp.mean(), zv - zv.mean()
    a = (np.conj(dp) @ dv) / max(float(np.sum(np.abs(dp) ** 2)), 1e-9)
    b = zv.mean() - a * zp.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0, 0, 1]])


def fit_affine(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v` and keeps parallels."""
    design = np.column_stack([p, np.ones(len(p))])
    return np.vstack([np.linalg.lstsq(design, v, rcond=None)[0].T, [0, 0, 1]])


def fit_homography(p: np.ndarray, v: np.ndarray) -> np.ndarray | None:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v` and keeps lines, if there is one."""
    return cv2.findHomography(p, v, 0)[0]  # least squares of the distances, from a linear start


def plausible(homography: np.ndarray, points: np.ndarray) -> bool:
    """Whether the map's scales about `points` (float [n, 2]) are within SCALES and differ by at
    most MAX_STRETCH between the axes and MAX_BEND from place to place, and nothing is mirrored."""
    low, high = points.min(axis=0), points.max(axis=0)
    corners = np.array([low, high, (low[0], high[1]), (high[0], low[1])])
    scales = _scales(homography, corners)
    if not np.isfinite(scales).all():
        return False
    large, small = scales.T
    return bool(
        np.linalg.det(homography) > 0
        and small.min() >= SCALES[0]
        and large.max() <= SCALES[1]
        and (large <= MAX_STRETCH * small).all()
        and large.max() <= MAX_BEND * large.min()
    )


def _scales(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [n, 2]: the larger and the smaller scale of the map at each of the points [n, 2]."""
    slopes = slopes_of(homography, points)
    if not np.isfinite(slopes).all():
        return np.full((len(points), 2), np.nan)
    return np.linalg.svd(slopes, compute_uv=False)


def slopes_of(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [n, 2, 2]: the map's derivative at each of the points [n, 2]."""
    depth = points @ homography[2, :2] + homography[2, 2]
    mapped = apply(homography, points)
    slope = homography[:2, :2] - mapped[:, :, None] * homography[2, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return slope / depth[:, None, None]
