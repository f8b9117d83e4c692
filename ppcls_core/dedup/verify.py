"""The map that lays one picture over another, from their keypoints, and how far to trust it.

Deterministic without a seed: the hypotheses are enumerated, not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.sift import Features

NUM_SEEDS = 48  # best matches whose pairs give the hypotheses
MAX_TURN = np.radians(30)  # a keypoint's orientation obeys the map within this
MAX_ZOOM = np.log(2)  # and its size within this factor
SCALES = (0.1, 10.0)  # plausible enlargements of pool over val
MAX_STRETCH = 2.0  # plausible ratio of the two axes' scales
MIN_SPREAD = 4.0  # pixels: inliers must not sit on one spot or one line
NUM_REFITS = 4
AFFINE_INLIERS = 8  # with fewer only a similarity is fitted
DOUBT_BY_PIXEL, DOUBT_BY_INLIER = 0.5, 2.0  # see `needed`


@dataclass(frozen=True)
class Fit:
    """`affine` float64 [2, 3] maps pool points to val points; `inliers` counts places, not matches;
    `residual` is their median distance from the map in pixels."""

    affine: np.ndarray
    inliers: int
    residual: float


def match(pool: np.ndarray, val: np.ndarray, ratio: float) -> np.ndarray:
    """int64 [m, 2]: rows of `pool` and `val` descriptors (uint8 [n, 128]) that are nearest by
    Lowe's ratio test, best first.

    Products of such bytes sum below 2**24, so float32 sums are exact on every machine. The product
    is OpenCV's: numpy's starts OpenBLAS' threads, which cost ten times the work.
    """
    if len(pool) == 0 or len(val) < 2:
        return np.zeros((0, 2), np.int64)
    a, b = pool.astype(np.float32), val.astype(np.float32)
    product = cv2.gemm(a, b, 1, np.empty(0, np.float32), 0, flags=cv2.GEMM_2_T)
    distance = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * product
    nearest = distance.argmin(axis=1)
    rows = np.arange(len(a))
    best = distance[rows, nearest]
    distance[rows, nearest] = np.inf
    second = np.maximum(distance.min(axis=1), 1)
    quality = best / second
    good = np.flatnonzero(quality < ratio**2)
    good = good[np.argsort(quality[good], kind="stable")]
    return np.stack([good, nearest[good]], axis=1)


def fit(pool: Features, val: Features, config: DedupConfig) -> Fit | None:
    """The map that most matched keypoints obey, or None when fewer than `min_inliers` obey any."""
    pairs = match(pool.descriptors, val.descriptors, config.match_ratio)
    if len(pairs) < config.min_inliers:
        return None
    p, v = pool.points[pairs[:, 0]].astype(np.float64), val.points[pairs[:, 1]].astype(np.float64)
    inliers = _best_hypothesis(p, v, config.tolerance)
    if inliers is None:
        return None
    affine, residual = np.zeros((2, 3)), np.zeros(len(p))
    for _ in range(NUM_REFITS):
        if _places(p, v, inliers) < config.min_inliers:
            return None
        affine = _least_squares(p[inliers, :2], v[inliers, :2])
        if not plausible(affine):
            return None
        scale = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
        residual = np.linalg.norm(p[:, :2] @ affine[:, :2].T + affine[:, 2] - v[:, :2], axis=1)
        inliers = residual < config.tolerance * np.clip(scale, 0.4, 2)
        residual /= max(1.0, scale)  # in the pixels of the coarser picture
    count = _places(p, v, inliers)
    if count < config.min_inliers or not (_spread(p[inliers]) and _spread(v[inliers])):
        return None
    return Fit(affine, count, float(np.median(residual[inliers])))


def needed(geometry: Fit, config: DedupConfig) -> float:
    """Agreement that settles it: more, the fewer keypoints obey the map and the less exactly."""
    doubt = DOUBT_BY_PIXEL * geometry.residual + DOUBT_BY_INLIER / geometry.inliers
    return min(config.agreement + doubt, config.sure_agreement)


def _best_hypothesis(p: np.ndarray, v: np.ndarray, tolerance: float) -> np.ndarray | None:
    """bool [m]: matches obeying the best of the similarities through two of the best matches.

    With points as complex numbers a similarity is v = a p + b.
    """
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    zoom, turn = np.log(v[:, 2] / p[:, 2]), v[:, 3] - p[:, 3]
    i, j = np.triu_indices(min(len(p), NUM_SEEDS), 1)
    span = zp[j] - zp[i]
    apart = (np.abs(span) > MIN_SPREAD) & (np.abs(zv[j] - zv[i]) > MIN_SPREAD)
    i, j = i[apart], j[apart]
    a = (zv[j] - zv[i]) / (zp[j] - zp[i])
    obeys = np.ones(len(a), bool)
    for k in (i, j):
        obeys &= np.abs(zoom[k] - np.log(np.abs(a))) < MAX_ZOOM
        obeys &= np.abs(_wrap(turn[k] - np.angle(a))) < MAX_TURN
    a, i = a[obeys], i[obeys]
    if len(a) == 0:
        return None
    b = zv[i] - a * zp[i]
    size = np.abs(a)[:, None]
    near = np.abs(a[:, None] * zp + b[:, None] - zv) < tolerance * np.clip(size, 0.4, 2)
    near &= np.abs(zoom - np.log(size)) < MAX_ZOOM
    near &= np.abs(_wrap(turn - np.angle(a)[:, None])) < MAX_TURN
    return near[near.sum(axis=1).argmax()]


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _places(p: np.ndarray, v: np.ndarray, rows: np.ndarray) -> int:
    """Number of distinct places among the matches: one corner often carries several keypoints."""
    return (
        min(len(np.unique(np.round(x[rows, :2] / 2), axis=0)) for x in (p, v)) if rows.any() else 0
    )


def _spread(points: np.ndarray) -> bool:
    centred = points[:, :2] - points[:, :2].mean(axis=0)
    return float(np.linalg.svd(centred, compute_uv=False)[-1]) / np.sqrt(len(points)) > MIN_SPREAD


def _least_squares(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: affine map p -> v, a similarity when the points are few."""
    if len(p) >= AFFINE_INLIERS:
        design = np.column_stack([p, np.ones(len(p))])
        return np.linalg.lstsq(design, v, rcond=None)[0].T
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    dp, dv = zp - zp.mean(), zv - zv.mean()
    a = (np.conj(dp) @ dv) / max(float(np.sum(np.abs(dp) ** 2)), 1e-9)
    b = zv.mean() - a * zp.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def plausible(affine: np.ndarray) -> bool:
    """Whether the map's two scales are within SCALES and their ratio within MAX_STRETCH."""
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(SCALES[0] <= small and large <= SCALES[1] and large <= MAX_STRETCH * small)
