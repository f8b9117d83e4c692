"""A pool image shows a val image: by which channel, how well, where, and whether it alone.

A frame, a watermark or lettering that several different images share is evidence for none. Where a
picture agrees with one validation image as it does with another that is not the same, the agreement
is put down to what they share, and each is judged by the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from ppcls_core.dedup.features import DescribedImage
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pixels import COARSE, WINDOW, agreeing, lay_over, share_of, shares

CHANNELS = ("bytes", "pixels", "phash", "sift")
SURE = 0.95  # score that no competitor lowers: many val images may show one scene
SAME_PICTURE = 0.8  # agreement of two val images where the picture seems to show both
NEARLY = 0.15  # of the score: pairs refused by less than this are kept to be looked at
FOUND = pa.schema(
    [
        ("pool_id", pa.string()),
        ("val_id", pa.string()),
        ("channel", pa.string()),
        ("score", pa.float32()),  # share of the common textured area that agrees; 1 when equal
        ("inliers", pa.int32()),  # keypoints that obey the map; 0 but for sift
        ("margin", pa.float32()),  # the score less what the rule asks for
        ("transform", pa.list_(pa.float32(), 9)),  # 3 x 3, row by row: pool to val pixels
        ("pool_sha256", pa.string()),  # hex, of the file as searched
        ("val_sha256", pa.string()),
    ]
)
"""Pairs as the rule has them, which the shards of a search keep."""

PAIRS = pa.schema([*FOUND, ("reviewed", pa.bool_())])
"""Pairs as a person has them where there are decisions (`reviewed`), else as the rule."""


@dataclass(frozen=True)
class Pair:
    """A pool image shows val image `row`; `homography` float64 [3, 3] maps its pixels to that
    one's. `margin`: by how much the score exceeds what the rule asks for.

    Pixel coordinates are continuous: the picture's outer corner is (0, 0), a pixel's centre +0.5.
    """

    row: int
    channel: str
    score: float
    inliers: int
    homography: np.ndarray
    margin: float


def rescale(homography: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`homography` for coordinates multiplied by `before` (x, y) ahead of it, `after` behind it."""
    whole = np.diag([*after, 1.0]) @ homography @ np.diag([*before, 1.0])
    return whole / whole[2, 2]


class Overlay(NamedTuple):
    """The picture `pool`, which `homography` lays over `val` (both grey uint8 [H, W])."""

    pool: np.ndarray
    val: np.ndarray
    homography: np.ndarray


def against_competitors(
    picture: DescribedImage, index: ValIndex, candidates: Sequence[tuple[Pair, Overlay]]
) -> Iterator[Pair]:
    """The pairs, each judged with regard to those of other val images that compete for the picture;
    but the picture itself, with which it has all in common, does not compete with its copies."""
    itself = index.by_digest.get(picture.digest, [])
    others = [(pair.row, overlay) for pair, overlay in candidates if pair.row not in itself]
    for pair, overlay in candidates:
        yield _against(pair, overlay, [other for row, other in others if row != pair.row])


def _against(pair: Pair, overlay: Overlay, others: list[Overlay]) -> Pair:
    """The pair, refused when its evidence is evidence for `others` as well."""
    if pair.margin < 0 or pair.score >= SURE or not others:
        return pair
    share = min(pair.score, _share_alone(overlay, others))
    margin = pair.margin + share - pair.score
    return pair if margin >= 0 else replace(pair, score=share, margin=margin)


def _share_alone(overlay: Overlay, others: Sequence[Overlay]) -> float:
    """Share of either picture's textured pixels that agree with this val image alone, not with one
    of the `others` as well; the larger of the two."""
    same, *textured = _agreeing(overlay)
    shared = np.zeros_like(same)
    for other in others:
        if not _same_picture(overlay, other):
            also, of_val, of_pool = _agreeing(other)
            shared |= also & (of_val | of_pool)
    return max(share_of(same, of & ~shared, same.size) for of in textured)


def _agreeing(overlay: Overlay) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In the pool picture's frame, at half its size."""
    back = np.linalg.inv(overlay.homography)
    return agreeing(*lay_over(overlay.val, overlay.pool, back, COARSE))


def agreeing_with(overlay: Overlay) -> tuple[np.ndarray, np.ndarray]:
    """Two masks, bool [H, W], in the pool picture's frame at half its size: pixels that agree with
    val, pixels that have texture, other than the edge of a frame about val."""
    back = np.linalg.inv(overlay.homography)
    val, pool, inside = lay_over(overlay.val, overlay.pool, back, COARSE)
    same, _, textured = agreeing(val, pool)
    about = cv2.dilate(inside, np.ones((2 * WINDOW + 1, 2 * WINDOW + 1), np.uint8)) > inside
    return same & (inside > 0), textured & ~about


def _same_picture(a: Overlay, b: Overlay) -> bool:
    between = b.homography @ np.linalg.inv(a.homography)
    return min(shares(*lay_over(a.val, b.val, between, COARSE))) >= SAME_PICTURE
