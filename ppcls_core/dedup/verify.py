"""The map that lays one picture over another, from their keypoints, and how far to trust it.

Deterministic without a seed: the hypotheses are enumerated, not drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_core.dedup.config import DedupConfig, Rule
from ppcls_core.dedup.pixels import apply
from ppcls_core.dedup.sift import Features

NUM_SEEDS = 48  # best matches whose pairs give the hypotheses
MAX_TURN = np.radians(30)  # a keypoint's orientation obeys the map within this
MAX_ZOOM = np.log(2)  # and its size within this factor
SCALES = (0.08, 12.0)  # plausible enlargements of pool over val
MAX_STRETCH = 2.5  # plausible ratio of the two axes' scales
MAX_BEND = 3.0  # plausible ratio of a homography's scales over the picture
MIN_SPREAD = 4.0  # pixels: inliers must not sit on one spot or one line
MIN_SEEDS = 3  # matches that obey the first map
UNIT = 512**2  # product of a descriptor with itself
ALIKE = 0.8  # of that: the product of keypoints that may show the same
NUM_REFITS = 4
AFFINE_INLIERS, HOMOGRAPHY_INLIERS = 8, 12  # with fewer no map of so much freedom is fitted
DOUBT_BY_PIXEL, MAX_BENT, DOUBT_BY_INLIER = 1.0, 0.3, 3.0  # see `needed`
STRAIGHT = 0.1  # pixels of bend that rounding gives
AGREEMENT: dict[Rule, float] = {"strict": 0.55, "balanced": 0.45, "recall": 0.35}
SURE_AGREEMENT = 0.9  # enough, whatever the doubt

Solve = Callable[[np.ndarray, np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Fit:
    """`homography` float64 [3, 3] maps pool points to val points; `inliers` counts places, not
    matches; `bend` is the map's median distance, in pixels, from the nearest similarity: copies
    are seldom bent, second photographs of the same thing nearly always."""

    homography: np.ndarray
    inliers: int
    bend: float


def similarities(pool: np.ndarray, val: np.ndarray) -> np.ndarray:
    """float32 [n, m]: products of `pool` and `val` descriptors (uint8 [n, 128], [m, 128]).

    Products of such bytes sum below 2**24, so float32 sums are exact on every machine. The product
    is OpenCV's: numpy's starts OpenBLAS' threads, which cost ten times the work.
    """
    if len(pool) == 0 or len(val) == 0:
        return np.zeros((len(pool), len(val)), np.float32)
    a, b = pool.astype(np.float32), val.astype(np.float32)
    return cv2.gemm(a, b, 1, np.empty(0, np.float32), 0, flags=cv2.GEMM_2_T)


def match(product: np.ndarray, ratio: float) -> np.ndarray:
    """int64 [k, 2]: rows of pool and val descriptors with these `similarities` that are each
    other's nearest and pass Lowe's ratio test, best first."""
    if min(product.shape) < 2:
        return np.zeros((0, 2), np.int64)
    nearest = product.argmax(axis=1)
    rows = np.flatnonzero(product.argmax(axis=0)[nearest] == np.arange(len(product)))
    nearest = nearest[rows]
    best = product[rows, nearest]
    others = product[rows]
    others[np.arange(len(rows)), nearest] = -np.inf
    distance, second = (np.maximum(UNIT - x, 1) for x in (best, others.max(axis=1)))
    quality = distance / second
    order = np.argsort(quality, kind="stable")
    order = order[quality[order] < ratio**2]
    return np.stack([rows[order], nearest[order]], axis=1)


def fit(pool: Features, val: Features, config: DedupConfig) -> Fit | None:
    """The map that most keypoints obey, or None when fewer than `min_inliers` obey any.

    It starts as a similarity through two of the matches. Then the keypoints that it lays upon each
    other, matched or not, are compared, and the map gets more freedom the more of them are alike.
    """
    product = similarities(pool.descriptors, val.descriptors)
    pairs = match(product, config.match_ratio)
    if len(pairs) < MIN_SEEDS:
        return None
    p, v = pool.points.astype(np.float64), val.points.astype(np.float64)
    obeying = _best_hypothesis(p[pairs[:, 0]], v[pairs[:, 1]], config.tolerance)
    if obeying is None or obeying.sum() < MIN_SEEDS:
        return None
    alike = np.argwhere(product > ALIKE * UNIT)
    alike = alike[np.argsort(-product[tuple(alike.T)], kind="stable")]
    pairs, best = pairs[obeying], None
    for solve, at_least in _MODELS:
        refined = _refine(p, v, pairs, alike, solve, config) if len(pairs) >= at_least else None
        if refined is None:
            break
        best, pairs = refined
    count = _places(p, v, pairs)
    if best is None or count < config.min_inliers:
        return None
    return Fit(best, count, _bend(best, p[pairs[:, 0], :2]))


def _refine(  # noqa: PLR0913 - two tables of points, two of pairs
    p: np.ndarray,
    v: np.ndarray,
    pairs: np.ndarray,
    alike: np.ndarray,
    solve: Solve,
    config: DedupConfig,
) -> tuple[np.ndarray, np.ndarray] | None:
    """(map, int64 [k, 2]): a map of one kind and those of the pairs `alike` that obey it, beginning
    with the map through `pairs`."""
    homography = None
    for _ in range(NUM_REFITS):
        x, y = p[pairs[:, 0], :2], v[pairs[:, 1], :2]
        homography = solve(x, y) if _spread(x) and _spread(y) else None
        if homography is None or not plausible(homography, x):
            return None
        obeying = _obeying(p[alike[:, 0]], v[alike[:, 1]], homography, config.tolerance)
        before, pairs = pairs, _one_to_one(alike[obeying])
        if len(pairs) < MIN_SEEDS:
            return None
        if np.array_equal(before, pairs):
            break
    return None if homography is None else (homography, pairs)


def _obeying(p: np.ndarray, v: np.ndarray, homography: np.ndarray, tolerance: float) -> np.ndarray:
    """bool [k]: pairs that the map lays upon each other, in the same turn and size."""
    slopes = _slopes(homography, p[:, :2])
    (a, b), (c, d) = slopes.transpose(1, 2, 0)
    scale = np.sqrt(np.abs(a * d - b * c))
    turn = np.arctan2(c - b, a + d)
    off = np.hypot(*(apply(homography, p[:, :2]) - v[:, :2]).T)
    with np.errstate(invalid="ignore"):  # behind the horizon nothing obeys
        return (
            (off < tolerance * np.clip(scale, 1, 2))
            & (np.abs(np.log(v[:, 2] / p[:, 2] / scale)) < MAX_ZOOM)
            & (np.abs(_wrap(v[:, 3] - p[:, 3] - turn)) < MAX_TURN)
        )


def _one_to_one(pairs: np.ndarray) -> np.ndarray:
    """Of `pairs`, best first, those neither of whose keypoints is in a better one."""
    for column in (0, 1):
        _, first = np.unique(pairs[:, column], return_index=True)
        pairs = pairs[np.sort(first)]
    return pairs


def _bend(homography: np.ndarray, points: np.ndarray) -> float:
    """Median distance of the map from the similarity nearest to it, in the coarser's pixels."""
    mapped = apply(homography, points)
    similarity = _similarity(points, mapped)
    scale = float(np.hypot(*similarity[:2, 0]))
    off = np.linalg.norm(apply(similarity, points) - mapped, axis=1)
    return float(np.median(off)) / max(1.0, scale)


def needed(geometry: Fit, rule: Rule) -> float:
    """Agreement that settles it: more, the fewer keypoints obey the map and the more it bends."""
    bent = min(DOUBT_BY_PIXEL * max(0.0, geometry.bend - STRAIGHT), MAX_BENT)
    doubt = bent + DOUBT_BY_INLIER / geometry.inliers
    return min(AGREEMENT[rule] + doubt, SURE_AGREEMENT)


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


def _places(p: np.ndarray, v: np.ndarray, pairs: np.ndarray) -> int:
    """Number of distinct places among the pairs: one corner often carries several keypoints."""
    places = (p[pairs[:, 0], :2], v[pairs[:, 1], :2])
    return min(len(np.unique(np.round(x / 2), axis=0)) for x in places)


def _spread(points: np.ndarray) -> bool:
    centred = points[:, :2] - points[:, :2].mean(axis=0)
    return float(np.linalg.svd(centred, compute_uv=False)[-1]) / np.sqrt(len(points)) > MIN_SPREAD


def _similarity(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    dp, dv = zp - zp.mean(), zv - zv.mean()
    a = (np.conj(dp) @ dv) / max(float(np.sum(np.abs(dp) ** 2)), 1e-9)
    b = zv.mean() - a * zp.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0, 0, 1]])


def _affine(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    design = np.column_stack([p, np.ones(len(p))])
    return np.vstack([np.linalg.lstsq(design, v, rcond=None)[0].T, [0, 0, 1]])


def _homography(p: np.ndarray, v: np.ndarray) -> np.ndarray | None:
    return cv2.findHomography(p, v, 0)[0]  # least squares of the distances, from a linear start


_MODELS: tuple[tuple[Solve, int], ...] = (
    (_similarity, 0),
    (_affine, AFFINE_INLIERS),
    (_homography, HOMOGRAPHY_INLIERS),
)


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
    slopes = _slopes(homography, points)
    if not np.isfinite(slopes).all():
        return np.full((len(points), 2), np.nan)
    return np.linalg.svd(slopes, compute_uv=False)


def _slopes(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [n, 2, 2]: the map's derivative at each of the points [n, 2]."""
    depth = points @ homography[2, :2] + homography[2, 2]
    mapped = apply(homography, points)
    slope = homography[:2, :2] - mapped[:, :, None] * homography[2, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return slope / depth[:, None, None]
