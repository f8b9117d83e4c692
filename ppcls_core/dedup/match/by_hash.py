"""The channel phash: perceptual hashes of the picture's eight poses, then the thumbnails compared.

Where the thumbnails agree only in part, as under lettering, that is a hint for the channel sift.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import (
    THUMB,
    DescribedImage,
    pose_affine,
    pose_hashes,
    thumbnail,
)
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import NEARLY, Overlay, Pair, against_competitors, rescale
from ppcls_core.dedup.match.pixels import COARSE, MIN_CORNERS, lay_over, num_corners, shares

MAX_NEAR = 16  # nearest hashes whose thumbnails are compared
HINT_BITS = 2  # more than `hash_distance`: the distance at which a hash is still a hint
HINT_SHARE = 0.7  # of the texture of one of the thumbnails: so much agrees under lettering


@dataclass(frozen=True)
class Near:
    """A val image `bits` apart from the picture in one of its poses, at most HINT_BITS more than
    `hash_distance`: the `pair`, the `overlay` of the thumbnails, and the `share` of the one that
    agrees better."""

    bits: int
    pair: Pair
    overlay: Overlay
    share: float


def near_hashes(picture: DescribedImage, index: ValIndex) -> list[Near]:
    """Val images whose hashes are near, nearest first; none where there is little texture."""
    bits = np.bitwise_count(pose_hashes(picture.thumb)[:, None] ^ index.hashes)
    near = np.argwhere(bits <= index.config.hash_distance + HINT_BITS)
    if len(near) == 0 or num_corners(picture.thumb) < MIN_CORNERS:
        return []
    apart = bits[tuple(near.T)]
    first = np.argsort(apart, kind="stable")[:MAX_NEAR]
    return [
        _compared(picture, index, distance, pose, row)
        for distance, (pose, row) in zip(apart[first].tolist(), near[first].tolist(), strict=True)
    ]


def _compared(picture: DescribedImage, index: ValIndex, bits: int, pose: int, row: int) -> Near:
    unit = pose_affine(pose)
    across = rescale(unit, np.full(2, 1 / THUMB), np.full(2, THUMB))
    overlay = Overlay(picture.thumb, thumbnail(index.grey(row)), across)
    less, more = sorted(shares(*lay_over(*overlay, COARSE)))
    whole = rescale(unit, np.divide(1, picture.size), index.sizes[row, :2])
    pair = Pair(row, "phash", less, 0, whole, less - index.config.hash_agreement)
    return Near(bits, pair, overlay, more)


def by_hash(picture: DescribedImage, index: ValIndex, near: Sequence[Near]) -> Iterator[Pair]:
    """Pairs of the `near` whose thumbnails agree, or nearly (`margin` below 0)."""
    candidates = [
        (one.pair, one.overlay)
        for one in near
        if one.bits <= index.config.hash_distance and one.pair.margin >= -NEARLY
    ]
    yield from against_competitors(picture, index, candidates)


def hints(near: Sequence[Near], config: DedupConfig) -> bool:
    """Whether any of the `near` that is no pair may be one under lettering."""
    return any(
        one.share >= HINT_SHARE and (one.pair.margin < 0 or one.bits > config.hash_distance)
        for one in near
    )
