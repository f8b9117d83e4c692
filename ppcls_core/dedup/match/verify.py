"""The map that lays one picture over another, from their keypoints, and how far to trust it.

Deterministic: hypotheses are enumerated, and where OpenCV draws them, it begins with one seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ppcls_core.dedup.config import DedupConfig, Rule
from ppcls_core.dedup.features import Features
from ppcls_core.dedup.match.pixels import apply

NUM_SEEDS = 48  # best matches whose pairs give the hypotheses
MAX_TURN = np.radians(30)  # a keypoint's orientation obeys the map within this
MAX_ZOOM = np.log(2)  # and its size within this factor
MIN_SEEDS = 3  # matches that obey the first map
UNIT = 512**2  # product of a descriptor with itself
ALIKE = 0.8  # of that: the product of keypoints that may show the same
MAX_ALIKE = 4_000  # such pairs that are compared; repeating texture has far more
NUM_REFITS = 4
MOST = 0.6  # x the matches: a map that fewer obey may hold in a part of the picture only
NUM_DRAWS = 500  # homographies through four matches
AFFINE_INLIERS, HOMOGRAPHY_INLIERS = 8, 12  # with fewer no map of so much freedom is fitted
AGREEMENT: dict[Rule, float] = {"strict": 0.64, "balanced": 0.56, "recall": 0.5}
CHANCE = 2  # matches that obey another map: any two do
DOUBT_BY_RANDOM, MANY = 1.3, 0.45  # of the matches: fewer obey the map when texture repeats
DOUBT_BY_PART, WHOLE = 1.2, 0.9  # of a picture's area: copies seldom share less
ELSEWHERE = 4  # x the tolerance: so far off a match votes for another map
SCALES = (0.08, 12.0)  # plausible enlargements of pool over val
MAX_STRETCH = 2.5  # plausible ratio of the two axes' scales
MAX_BEND = 3.0  # plausible ratio of a homography's scales over the picture
MIN_SPREAD = 4.0  # pixels: inliers must not sit on one spot or one line

Solve = Callable[[np.ndarray, np.ndarray], np.ndarray | None]
_Map = tuple[np.ndarray, np.ndarray]  # float64 [3, 3], int64 [k, 2]: pairs of keypoints that obey


@dataclass(frozen=True)
class Fit:
    """`homography` float64 [3, 3] maps pool points to val points.

    `inliers`: places at which keypoints look alike and obey the map. Of the `matches`, which are
    each other's nearest among all keypoints, `obeying` do, and `within` lie in the common part of
    the pictures; of the others `competing` obey one other map. In copies most matches obey one
    map and few any other. Two pieces of one brick wall match at random, and by one brick further on
    as well.
    """

    homography: np.ndarray
    inliers: int
    obeying: int
    within: int
    competing: int


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
    matches = match(product, config.match_ratio)
    if len(matches) < MIN_SEEDS:
        return None
    p, v = pool.points.astype(np.float64), val.points.astype(np.float64)
    seeds = _best_hypothesis(p[matches[:, 0]], v[matches[:, 1]], config.tolerance)
    if seeds is None or seeds.sum() < MIN_SEEDS:
        return None
    alike = _alike(product)
    grown = _grown(p, v, matches[seeds], alike, config)
    if grown is None or len(grown[1]) < MOST * len(matches):
        bent = _bent(p, v, matches, alike, config)
        grown = max(grown, bent, key=lambda g: 0 if g is None else len(g[1]))
    if grown is None or (count := _places(p, v, grown[1])) < config.min_inliers:
        return None
    return Fit(grown[0], count, *_support(p, v, matches, grown[0], config.tolerance))


def _grown(
    p: np.ndarray, v: np.ndarray, pairs: np.ndarray, alike: np.ndarray, config: DedupConfig
) -> _Map | None:
    """The map through `pairs`, of the most freedom that they allow, and the pairs that obey it."""
    best = None
    for solve, at_least in _MODELS:
        refined = _refine(p, v, pairs, alike, solve, config) if len(pairs) >= at_least else None
        if refined is None:
            break
        best, pairs = refined, refined[1]
    return best


def _bent(
    p: np.ndarray, v: np.ndarray, matches: np.ndarray, alike: np.ndarray, config: DedupConfig
) -> _Map | None:
    """The homography that most `matches` obey and the pairs that do: from the side a picture bends
    so much that a similarity holds in a part of it, from where the map need not grow further.

    USAC: Raguram et al. 2013; matches are drawn best first (PROSAC: Chum and Matas 2005).
    """
    if len(matches) < HOMOGRAPHY_INLIERS:
        return None
    a, b = p[matches[:, 0], :2], v[matches[:, 1], :2]
    _, mask = cv2.findHomography(a, b, cv2.USAC_PROSAC, config.tolerance, maxIters=NUM_DRAWS)
    obeying = np.flatnonzero(mask)  # none where no mask is given
    if len(obeying) < HOMOGRAPHY_INLIERS:
        return None
    return _refine(p, v, matches[obeying], alike, _fit_homography, config)


def _alike(product: np.ndarray) -> np.ndarray:
    """int64 [k, 2]: keypoints with `product` above ALIKE, best first, at most MAX_ALIKE."""
    rows, columns = np.nonzero(product > ALIKE * UNIT)
    found = product[rows, columns]
    if len(found) > MAX_ALIKE:  # sorting all would cost more than the rest of the fit
        best = found >= np.partition(found, -MAX_ALIKE)[-MAX_ALIKE]
        rows, columns, found = rows[best], columns[best], found[best]
    order = np.argsort(-found, kind="stable")[:MAX_ALIKE]
    return np.stack([rows, columns], axis=1)[order]


def _refine(  # noqa: PLR0913 - two tables of points, two of pairs
    p: np.ndarray,
    v: np.ndarray,
    pairs: np.ndarray,
    alike: np.ndarray,
    solve: Solve,
    config: DedupConfig,
) -> _Map | None:
    """(map, int64 [k, 2]): a map of one kind and those of the pairs `alike` that obey it, beginning
    with the map through `pairs`."""
    homography = None
    for _ in range(NUM_REFITS):
        x, y = p[pairs[:, 0], :2], v[pairs[:, 1], :2]
        homography = solve(x, y) if _spread(x) and _spread(y) else None
        if homography is None or not _plausible(homography, x):
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
    off = np.hypot(*(apply(homography, p[:, :2]) - v[:, :2]).T)
    obeys = off < 2 * tolerance  # False behind the horizon
    p, v, off = p[obeys], v[obeys], off[obeys]
    (a, b), (c, d) = _slopes_of(homography, p[:, :2]).transpose(1, 2, 0)
    scale = np.sqrt(np.abs(a * d - b * c))
    turn = np.arctan2(c - b, a + d)
    obeys[obeys] = (
        (off < tolerance * np.clip(scale, 1, 2))
        & (np.abs(np.log(v[:, 2] / p[:, 2] / scale)) < MAX_ZOOM)
        & (np.cos(v[:, 3] - p[:, 3] - turn) > np.cos(MAX_TURN))
    )
    return obeys


def _one_to_one(pairs: np.ndarray) -> np.ndarray:
    """Those of `pairs`, best first, neither of whose keypoints is in a better one."""
    for column in (0, 1):
        _, first = np.unique(pairs[:, column], return_index=True)
        pairs = pairs[np.sort(first)]
    return pairs


def _support(
    p: np.ndarray, v: np.ndarray, matches: np.ndarray, homography: np.ndarray, tolerance: float
) -> tuple[int, int, int]:
    """Matches that obey the map, those of the part that both pictures show, and those that obey
    another map."""
    a, b = p[matches[:, 0]], v[matches[:, 1]]
    obeying = _obeying(a, b, homography, tolerance)
    there = _among(apply(homography, a[:, :2]), v)
    back = _among(apply(np.linalg.inv(homography), b[:, :2]), p)
    far = ~_obeying(a, b, homography, ELSEWHERE * tolerance)
    other = _best_hypothesis(a[far], b[far], tolerance)
    competing = 0 if other is None else other.sum()
    return int(obeying.sum()), int((obeying | there & back).sum()), int(competing)


def _among(points: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """bool [n]: points that lie in the rectangle that the keypoints fill."""
    low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
    return np.all((points >= low) & (points <= high), axis=1)


def needed(geometry: Fit, overlap: float, rule: Rule) -> float:
    """Share of the texture that must agree: more, the fewer matches obey the map beside those that
    obey another, the fewer of all those are, and the smaller the pictures' common part (`overlap`).
    Above 1 nothing is enough."""
    doubt = max(CHANCE, geometry.competing) / max(1, geometry.obeying)
    random = DOUBT_BY_RANDOM * max(0.0, MANY - geometry.obeying / max(1, geometry.within))
    partial = DOUBT_BY_PART * max(0.0, WHOLE - overlap)
    return AGREEMENT[rule] + doubt + random + partial


def _best_hypothesis(p: np.ndarray, v: np.ndarray, tolerance: float) -> np.ndarray | None:
    """bool [m]: matches obeying the best of the similarities through two of the best matches.

    With points as complex numbers a similarity is v = a p + b.
    """
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    zoom, turn = np.log(v[:, 2] / p[:, 2]), np.exp(1j * (v[:, 3] - p[:, 3]))
    i, j = np.triu_indices(min(len(p), NUM_SEEDS), 1)
    span = zp[j] - zp[i]
    apart = (np.abs(span) > MIN_SPREAD) & (np.abs(zv[j] - zv[i]) > MIN_SPREAD)
    i, j = i[apart], j[apart]
    a = (zv[j] - zv[i]) / (zp[j] - zp[i])
    obeys = np.ones(len(a), bool)
    for k in (i, j):
        obeys &= np.abs(zoom[k] - np.log(np.abs(a))) < MAX_ZOOM
        obeys &= _turned(turn[k], a)
    a, i = a[obeys], i[obeys]
    if len(a) == 0:
        return None
    b = zv[i] - a * zp[i]
    size = np.abs(a)[:, None]
    near = np.abs(a[:, None] * zp + b[:, None] - zv) < tolerance * np.clip(size, 0.4, 2)
    near &= np.abs(zoom - np.log(size)) < MAX_ZOOM
    near &= _turned(turn, a[:, None])
    return near[near.sum(axis=1).argmax()]


def _turned(turn: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Whether `turn`, of absolute value 1, is about that of `a`."""
    return np.real(turn * np.conj(a)) > np.cos(MAX_TURN) * np.abs(a)


def _places(p: np.ndarray, v: np.ndarray, pairs: np.ndarray) -> int:
    """Number of distinct places among the pairs: one corner often carries several keypoints."""
    places = (p[pairs[:, 0], :2], v[pairs[:, 1], :2])
    return min(len(np.unique(np.round(x / 2), axis=0)) for x in places)


def _spread(points: np.ndarray) -> bool:
    """Whether the points [n, 2] lie neither on one spot nor on one line."""
    centred = points[:, :2] - points[:, :2].mean(axis=0)
    return float(np.linalg.svd(centred, compute_uv=False)[-1]) / np.sqrt(len(points)) > MIN_SPREAD


def _fit_similarity(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v`: turn, zoom and shift."""
    zp, zv = p[:, 0] + 1j * p[:, 1], v[:, 0] + 1j * v[:, 1]
    dp, dv = zp - zp.mean(), zv - zv.mean()
    a = (np.conj(dp) @ dv) / max(float(np.sum(np.abs(dp) ** 2)), 1e-9)
    b = zv.mean() - a * zp.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0, 0, 1]])


def _fit_affine(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v` and keeps parallels."""
    design = np.column_stack([p, np.ones(len(p))])
    return np.vstack([np.linalg.lstsq(design, v, rcond=None)[0].T, [0, 0, 1]])


def _fit_homography(p: np.ndarray, v: np.ndarray) -> np.ndarray | None:
    """float64 [3, 3] that takes the points `p` [n, 2] to `v` and keeps lines, if there is one."""
    return cv2.findHomography(p, v, 0)[0]  # least squares of the distances, from a linear start


def _plausible(homography: np.ndarray, points: np.ndarray) -> bool:
    """Whether the map's scales about `points` (float [n, 2]) are within SCALES and differ by at
    most MAX_STRETCH between the axes and MAX_BEND from place to place, and nothing is mirrored."""
    low, high = points.min(axis=0), points.max(axis=0)
    corners = np.array([low, high, (low[0], high[1]), (high[0], low[1])])
    slopes = _slopes_of(homography, corners)
    if not np.isfinite(slopes).all():  # behind the horizon
        return False
    large, small = np.linalg.svd(slopes, compute_uv=False).T
    return bool(
        np.linalg.det(homography) > 0
        and small.min() >= SCALES[0]
        and large.max() <= SCALES[1]
        and (large <= MAX_STRETCH * small).all()
        and large.max() <= MAX_BEND * large.min()
    )


def _slopes_of(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [n, 2, 2]: the map's derivative at each of the points [n, 2]."""
    depth = points @ homography[2, :2] + homography[2, 2]
    mapped = apply(homography, points)
    slope = homography[:2, :2] - mapped[:, :, None] * homography[2, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return slope / depth[:, None, None]


_MODELS: tuple[tuple[Solve, int], ...] = (
    (_fit_similarity, 0),
    (_fit_affine, AFFINE_INLIERS),
    (_fit_homography, HOMOGRAPHY_INLIERS),
)
