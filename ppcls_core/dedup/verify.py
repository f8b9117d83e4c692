"""Do two pictures show the same scene pixel for pixel? Geometry from keypoints, then the pixels.

Everything here is deterministic without a seed: hypotheses are enumerated, not drawn.
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
WINDOW = 11  # pixels of a thumbnail: the neighbourhood in which pixels are correlated
FLAT = 2.5  # grey levels: a neighbourhood with less deviation has no texture to compare
SAME = 0.6  # correlation of a neighbourhood that agrees
MIN_TEXTURED = 400  # pixels of a thumbnail (of 16,384) without which nothing can be said


@dataclass(frozen=True)
class Fit:
    """`affine` float64 [2, 3] maps pool points to val points; `inliers` counts places, not matches."""

    affine: np.ndarray
    inliers: int


@dataclass(frozen=True)
class Agreement:
    """`share` of the textured pixels that agree; `overlap`: larger of the shares of the two pictures'
    areas that show the common part."""

    share: float
    overlap: float


NOTHING = Agreement(0.0, 0.0)


def match(pool: np.ndarray, val: np.ndarray, ratio: float) -> np.ndarray:
    """int64 [m, 2]: rows of `pool` and `val` descriptors (uint8 [n, 128]) that are nearest by Lowe's
    ratio test, best first.

    The products of uint8 values sum below 2**24, so float32 sums are exact on every machine. OpenCV's
    product, not numpy's: OpenBLAS starts threads of its own, which costs ten times the product here.
    """
    if len(pool) == 0 or len(val) < 2:
        return np.zeros((0, 2), np.int64)
    a, b = pool.astype(np.float32), val.astype(np.float32)
    distance = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * cv2.gemm(a, b, 1, None, 0, flags=cv2.GEMM_2_T)
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
    affine = np.zeros((2, 3))
    for _ in range(NUM_REFITS):
        if _places(p, v, inliers) < config.min_inliers:
            return None
        affine = _least_squares(p[inliers, :2], v[inliers, :2])
        if not plausible(affine):
            return None
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
        residual = np.linalg.norm(p[:, :2] @ affine[:, :2].T + affine[:, 2] - v[:, :2], axis=1)
        inliers = residual < config.tolerance * np.clip(scale, 0.4, 2)
    count = _places(p, v, inliers)
    if count < config.min_inliers or not (_spread(p[inliers]) and _spread(v[inliers])):
        return None
    return Fit(affine, count)


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
    return min(len(np.unique(np.round(x[rows, :2] / 2), axis=0)) for x in (p, v)) if rows.any() else 0


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


def compare(pool: np.ndarray, val: np.ndarray, affine: np.ndarray) -> Agreement:
    """Agreement of two grey uint8 pictures where `affine` [2, 3] lays `pool` over `val`."""
    warped, inside = warp(pool, val.shape, affine)
    common = int(np.count_nonzero(inside))
    if common == 0:
        return NOTHING
    area = abs(np.linalg.det(affine[:, :2])) * pool.size
    overlap = max(common / val.size, common / max(area, 1e-9))
    correlation, textured = correlate(warped, val)
    textured &= cv2.erode(inside, np.ones((3, 3), np.uint8)) > 0
    total = int(np.count_nonzero(textured))
    if total < MIN_TEXTURED:
        return Agreement(0.0, float(overlap))
    share = np.count_nonzero(correlation[textured] > SAME) / total
    return Agreement(float(share), float(min(1.0, overlap)))


def warp(pool: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def correlate(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each pixel's neighbourhood (float32), and whether either has texture there."""
    x, y = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in (a, b))
    mean_x, mean_y = _mean(x), _mean(y)
    var_x = np.maximum(_mean(x * x) - mean_x**2, 0)
    var_y = np.maximum(_mean(y * y) - mean_y**2, 0)
    cov = _mean(x * y) - mean_x * mean_y
    textured = np.maximum(var_x, var_y) > FLAT**2
    return cov / np.sqrt((var_x + 0.5) * (var_y + 0.5)), textured


def _mean(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT_101)
