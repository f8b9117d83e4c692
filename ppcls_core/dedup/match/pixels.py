"""Do two pictures agree pixel for pixel, where one is laid over the other?"""

from dataclasses import dataclass

import cv2
import numpy as np

WINDOW = 7  # pixels: the neighbourhood in which pixels are correlated
FLAT = 2.5  # grey levels: a neighbourhood with less deviation has no texture to compare
NOISE = 0.5  # variance added to both, so that noise does not correlate
SAME = 0.6  # correlation of a neighbourhood that agrees
MIN_TEXTURED = 200  # pixels without which nothing can be said,
MIN_TEXTURED_SHARE = 0.03  # and this share of the common part
MIN_CORNERS = 500  # pixels of a thumbnail amid corners: one smooth contour fits many pictures
CORNER = 4.0  # smaller eigenvalue of the structure tensor amid corners, (grey levels / pixel)^2 * 4
COARSE = 0.5  # blurred copies agree at this size, copies under lettering at full size
MIN_SIDE = 24  # pixels of a picture that is compared
MARK = 15  # pixels: written marks are narrower than half of that, places of one paper as wide
INKED = 25  # grey levels by which the marks of a page stand out,
PAGE = 0.93  # and so much of their contrast is to one side in each place, as dark on light
PERHAPS_PAGE = 0.88  # so much of them at half size
DARK, FAINT = 0.4, 0.15  # of the ink's contrast: a mark has more, a blank place less
NUM_PROBES = 32  # points a side for which is asked whether they lie in the other picture


@dataclass(frozen=True)
class PixelAgreement:
    """`share` of either picture's textured pixels that agree, the larger of the two; `overlap`: the
    common part's share of either picture's area, the larger of the two."""

    share: float
    overlap: float


def compare(pool: np.ndarray, val: np.ndarray, homography: np.ndarray) -> PixelAgreement:
    """Agreement of two grey uint8 pictures where `homography` [3, 3] lays `pool` over `val`.

    They are compared in val's frame, at the size of whichever shows less, and at half of that: the
    better counts. So does the better of the pictures: what is laid over a copy hides some of the
    original, but adds more texture of its own.
    """
    common = max(
        _inside(pool.shape, val.shape, homography),
        _inside(val.shape, pool.shape, np.linalg.inv(homography)),
    )
    detail = min(1.0, 1 / _scale(homography, pool.shape))
    found = [shares(*lay_over(pool, val, homography, detail * level)) for level in (1.0, COARSE)]
    return PixelAgreement(max(map(max, found)), common)


def apply(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64 [n, 2]: the points [n, 2], mapped; NaN behind the horizon."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mapped[:, 2:] > 0, mapped[:, :2] / mapped[:, 2:], np.nan)


def shares(a: np.ndarray, b: np.ndarray, inside: np.ndarray | None = None) -> tuple[float, float]:
    """The share of each picture's textured pixels (within the mask `inside`) whose neighbourhoods
    correlate with the other's; 0 when there is too little texture to compare. Changes of brightness
    and contrast do not matter."""
    same, of_a, of_b = agreeing(a, b, inside)
    common = a.size if inside is None else int(np.count_nonzero(inside))
    return share_of(same, of_a, common), share_of(same, of_b, common)


def agreeing(
    a: np.ndarray, b: np.ndarray, inside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three masks, bool [H, W]: pixels whose neighbourhoods correlate, pixels of `a` that have
    texture, pixels of `b` that have."""
    x, y = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0) for image in (a, b))
    mean_x, mean_y = _mean(x), _mean(y)
    var_x = np.maximum(_mean(x * x) - mean_x**2, 0)
    var_y = np.maximum(_mean(y * y) - mean_y**2, 0)
    covariance = _mean(x * y) - mean_x * mean_y
    same = covariance > SAME * np.sqrt((var_x + NOISE) * (var_y + NOISE))
    within = True if inside is None else cv2.erode(inside, np.ones((3, 3), np.uint8)) > 0
    return same, (var_x > FLAT**2) & within, (var_y > FLAT**2) & within


def share_of(same: np.ndarray, textured: np.ndarray, common: int) -> float:
    """Share of the pixels `textured` that are the `same`; 0 when of the `common` ones too few have
    texture."""
    total = int(np.count_nonzero(textured))
    if total < max(MIN_TEXTURED, MIN_TEXTURED_SHARE * common):
        return 0.0
    return np.count_nonzero(same & textured) / total


def other_writing(pool: np.ndarray, val: np.ndarray, homography: np.ndarray) -> float:
    """Share of the marks of a page that the other page, laid over it by `homography` [3, 3], has
    not: of either page's the smaller. 0 when one of the two (grey uint8) is no page.

    Lettering over a copy adds marks and takes none away; another person's handwriting does both.
    """
    if not may_be_page(val):
        return 0.0
    pool, val, inside = lay_over(pool, val, homography, 1.0)
    within = cv2.erode(inside, np.ones((MARK // 2, MARK // 2), np.uint8)) > 0
    if (of_val := _marks(val, within)) is None or (of_pool := _marks(pool, within)) is None:
        return 0.0
    ink = np.percentile(np.maximum(of_val, of_pool)[within], 98)
    lacking = []
    for marks, other in ((of_val, of_pool), (of_pool, of_val)):
        inked = (marks > DARK * ink) & within
        blank = cv2.dilate(other, np.ones((3, 3), np.uint8)) < FAINT * ink
        lacking.append(np.count_nonzero(inked & blank) / max(1, np.count_nonzero(inked)))
    return min(lacking)


def may_be_page(image: np.ndarray) -> bool:
    """Whether a picture (grey uint8) may be a smooth ground with narrow marks, in each place either
    all darker or all lighter than it: writing, print or line art. Most photographs are told from
    those at half size, at a sixth of the cost."""
    small, _ = _reduced(image, COARSE)
    return _of_one_kind(small, MARK // 2, np.ones(small.shape, bool)) > PERHAPS_PAGE


def _of_one_kind(image: np.ndarray, mark: int, within: np.ndarray) -> float:
    """Share of the marks' squared contrast that is of the kind (dark or light) of its place."""
    paper = cv2.medianBlur(image, mark)
    dark, light = (
        cv2.sqrBoxFilter(marks, cv2.CV_32F, (mark, mark))
        for marks in (cv2.subtract(paper, image), cv2.subtract(image, paper))
    )
    of_all = float((dark + light)[within].sum())
    return float(np.maximum(dark, light)[within].sum()) / of_all if of_all > 0 else 0.0


def _marks(image: np.ndarray, within: np.ndarray) -> np.ndarray | None:
    """float32 [H, W]: how much each pixel of a page stands out from the paper about it, as a
    multiple of the root mean square `within` (bool [H, W]); None if there it is no page."""
    if _of_one_kind(image, MARK, within) <= PAGE:
        return None
    marks = cv2.absdiff(cv2.medianBlur(image, MARK), image).astype(np.float32)
    if np.percentile(marks[within], 98) < INKED:
        return None
    return marks / np.sqrt(np.square(marks[within]).mean())


def num_corners(thumb: np.ndarray) -> int:
    """Pixels of a thumbnail (uint8) whose neighbourhood varies in two directions."""
    smooth = cv2.GaussianBlur(thumb.astype(np.float32), (0, 0), 1.0)
    return int(np.count_nonzero(cv2.cornerMinEigenVal(smooth, WINDOW, ksize=3) > CORNER))


def lay_over(
    pool: np.ndarray, val: np.ndarray, homography: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(`pool` in val's frame, `val`, uint8 mask of where `pool` lies), at `size` times val's size.

    `size` is raised so that MIN_SIDE pixels remain.
    """
    size = min(1.0, max(size, MIN_SIDE / min(val.shape)))
    val, zoom_val = _reduced(val, size)
    pool, zoom_pool = _reduced(pool, min(1.0, size * _scale(homography, pool.shape)))
    centred = _HALF_BACK @ zoom_val @ homography @ np.linalg.inv(zoom_pool) @ _HALF
    target = (val.shape[1], val.shape[0])
    warped = cv2.warpPerspective(pool, centred, target, borderMode=cv2.BORDER_REPLICATE)
    full = np.full(pool.shape, 255, np.uint8)
    inside = cv2.warpPerspective(full, centred, target, flags=cv2.INTER_NEAREST)
    return warped, val, inside


# To OpenCV's coordinates, with the origin in the first pixel's centre, and back.
_HALF = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_HALF_BACK = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


def _reduced(image: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture at `size` times its size, by areas, as warping only samples; and that map."""
    if size > 0.8:
        return image, np.eye(3)
    width, height = (max(1, round(side * size)) for side in image.shape[1::-1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return small, np.diag([width / image.shape[1], height / image.shape[0], 1.0])


def _scale(homography: np.ndarray, shape: tuple[int, ...]) -> float:
    """By how much the map enlarges lengths about the picture's centre."""
    x, y = shape[1] / 2, shape[0] / 2
    corners = apply(homography, np.array([[x, y], [x + 1, y], [x, y + 1]]))
    (a, b), (c, d) = (corners[1:] - corners[0]).tolist()
    area = abs(a * d - b * c)
    return area**0.5 if 0 < area < np.inf else 1.0


def _inside(shape: tuple[int, ...], other_shape: tuple[int, ...], homography: np.ndarray) -> float:
    """Share of a picture's area that lies in the other."""
    steps = (np.arange(NUM_PROBES) + 0.5) / NUM_PROBES
    grid = np.stack(np.meshgrid(steps * shape[1], steps * shape[0]), axis=-1).reshape(-1, 2)
    mapped = apply(homography, grid)
    within = (mapped >= 0) & (mapped <= (other_shape[1], other_shape[0]))  # False for NaN
    return float(within.all(axis=1).mean())


def _mean(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT_101)
