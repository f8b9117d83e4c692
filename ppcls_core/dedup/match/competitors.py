"""A frame, a watermark or lettering that several different images share is evidence for none.

Where a picture agrees with one validation image as it does with another that is not the same, the
agreement is put down to what they share, and each is judged by the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ppcls_core.dedup.features.picture import DescribedImage
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import Pair
from ppcls_core.dedup.match.pixels import COARSE, agreeing, lay_over, share_of, shares

SURE = 0.95  # score that no competitor lowers: many val images may show one scene
SAME_PICTURE = 0.8  # agreement of two val images where the picture claims to show both


class Claim(NamedTuple):
    """The picture `pool` seems to show `val` (both grey uint8) where `homography` lays it."""

    pool: np.ndarray
    val: np.ndarray
    homography: np.ndarray


def against_competitors(
    picture: DescribedImage, index: ValIndex, claimed: Sequence[tuple[Pair, Claim]]
) -> Iterator[Pair]:
    """The pairs, each judged with regard to those of other val images that compete for the picture;
    but the picture itself, with which it has all in common, does not compete with its copies."""
    itself = index.by_digest.get(picture.digest, [])
    others = [(pair.row, claim) for pair, claim in claimed if pair.row not in itself]
    for pair, claim in claimed:
        yield _against(pair, claim, [other for row, other in others if row != pair.row])


def _against(pair: Pair, claim: Claim, others: list[Claim]) -> Pair:
    """The pair, refused when what speaks for it speaks for `others` as well."""
    if pair.margin < 0 or pair.score >= SURE or not others:
        return pair
    share = min(pair.score, _share_alone(claim, others))
    margin = pair.margin + share - pair.score
    return pair if margin >= 0 else replace(pair, score=share, margin=margin)


def _share_alone(claim: Claim, others: Sequence[Claim]) -> float:
    """Share of either picture's textured pixels that agree with this val image alone, not with one
    of the `others` as well; the larger of the two."""
    same, *textured = _agreeing(claim)
    shared = np.zeros_like(same)
    for other in others:
        if not _same_picture(claim, other):
            also, of_val, of_pool = _agreeing(other)
            shared |= also & (of_val | of_pool)
    return max(share_of(same, of & ~shared, same.size) for of in textured)


def _agreeing(claim: Claim) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In the pool picture's frame, at half its size."""
    back = np.linalg.inv(claim.homography)
    return agreeing(*lay_over(claim.val, claim.pool, back, COARSE))


def _same_picture(a: Claim, b: Claim) -> bool:
    between = b.homography @ np.linalg.inv(a.homography)
    return min(shares(*lay_over(a.val, b.val, between, COARSE))) >= SAME_PICTURE
