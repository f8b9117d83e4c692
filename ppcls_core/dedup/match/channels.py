"""The channels phash and sift.

phash: perceptual hashes of the picture's eight poses are near, then the thumbnails are compared.
Where they agree only in part, as under lettering, that is a hint for sift: descriptors vote for val
images, a map between the two pictures is fitted, one laid over the other and the pixels compared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import (
    THUMB,
    DescribedImage,
    Features,
    mirror,
    negate,
    pose_affine,
    pose_hashes,
    thumbnail,
)
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import (
    NEARLY,
    Overlay,
    Pair,
    against_competitors,
    agreeing_with,
    rescale,
)
from ppcls_core.dedup.match.pixels import (
    COARSE,
    MIN_CORNERS,
    PixelAgreement,
    compare,
    lay_over,
    may_be_page,
    num_corners,
    other_writing,
    shares,
)
from ppcls_core.dedup.match.verify import Fit, fit, needed

MAX_NEAR = 16  # nearest hashes whose thumbnails are compared
HINT_BITS = 2  # more than `hash_distance`: the distance at which a hash is still a hint
HINT_SHARE = 0.7  # of the texture of one of the thumbnails: so much agrees under lettering
NUM_STATES = 4  # as it is, mirrored, and the negatives of both
ENOUGH = 3  # x `min_features`: with fewer the coarse search decides nothing
SOLID = 12  # inliers of a map that can refute a pair,
MAX_COMPETING = 0.35  # x the matches that obey it: so few obey another,
REFUTED = 0.42  # and the pixels agree less
WEAK = 0.1  # x the most votes: with fewer a candidate is none of the coarse search
PARTS = 4  # of a picture's side: in each part that has texture
HARDLY, HALF = 0.05, 0.5  # in more of it than that, so much agrees where a picture is accounted for
MAX_OTHER_WRITING = 0.005  # of the marks of two pages: with more they are other pages of one print
_Candidate = tuple[int, int]  # number of the state, val row
_Vote = tuple[float, int, int]  # votes, number of the state, val row
_Judged = tuple[Pair, Overlay]


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
    margin = less - index.config.hash_agreement
    if margin >= 0 and may_be_page(picture.grey):  # hashes see no writing, and lay pages askew
        laid = _laid(picture, picture.features, index, (pose % 2, row))
        margin = margin if laid is None else _unless_other_writing(margin, laid)
    pair = Pair(row, "phash", less, 0, whole, margin)
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


def _altered(features: Features, width: int, number: int) -> Features:
    """The features of a picture `width` pixels wide in one of its states."""
    is_negative, is_mirrored = divmod(number, 2)
    if is_mirrored:
        features = mirror(features, width)
    return negate(features) if is_negative else features


def too_few(picture: DescribedImage) -> bool:
    """Whether the picture shows too little for SIFT."""
    least = picture.config.min_features
    return len(picture.coarse) < least and len(picture.features) < least


def by_sift(picture: DescribedImage, index: ValIndex, near: Sequence[Near]) -> Iterator[Pair]:
    """Pairs that descriptors vote for, and geometry and pixels confirm.

    The full search costs several times more than the coarse one, by the features of a small copy.
    So it is made only where that leaves something open: it has too few features, the hashes hint
    at a copy that it has not found, or of its candidates some are not refuted and none account for
    the whole picture. What lettering hides from one of the two the other may see.
    """
    config = index.config
    coarse = _voted(picture, picture.coarse, index, (config.coarse_features, config.coarse_vote))
    if config.coarse_vote > 0 and len(picture.coarse) >= ENOUGH * config.min_features:
        settled = _settled_by_coarse(picture, index, near, coarse)
        if settled is not None:
            yield from settled
            return
    voted = _voted(picture, picture.features, index, (config.num_queries, config.min_vote))
    features = picture.features + picture.coarse
    candidates = _candidates(coarse + voted)[: config.num_candidates]
    laid = (_laid(picture, features, index, candidate) for candidate in candidates)
    judged = [_judged(picture, index, one) for one in laid if one]
    yield from _with_equals(picture, index, judged)


def _settled_by_coarse(
    picture: DescribedImage, index: ValIndex, near: Sequence[Near], votes: list[_Vote]
) -> list[Pair] | None:
    """The pairs of the candidates, if nothing is left to search for: they account for the whole
    picture, or all candidates are refuted. Else None."""
    enough = WEAK * max((vote for vote, *_ in votes), default=0)
    candidates = _candidates([one for one in votes if one[0] >= enough])
    judged: list[_Judged] = []
    accepted: list[_Judged] = []
    for candidate in candidates[: index.config.num_candidates]:
        laid = _laid(picture, picture.coarse, index, candidate)
        judged += [_judged(picture, index, laid)] if laid else []
        accepted = [one for one in judged if one[0].margin >= 0]
        if not accepted and not _refuted(laid):
            return None
    rows = {pair.row for pair, _ in accepted}
    if hints([one for one in near if one.pair.row not in rows], index.config):
        return None
    if accepted and not _accounted(picture, index, accepted):
        return None
    pairs = list(_with_equals(picture, index, judged))
    return pairs if all(pair.margin >= 0 for pair in pairs) else None  # more features decide


def _with_equals(
    picture: DescribedImage, index: ValIndex, judged: Iterable[_Judged]
) -> Iterator[Pair]:
    """The pairs accepted, or nearly, with regard to each other; of equal val images each."""
    nearly = [one for one in judged if one[0].margin >= -NEARLY]
    for pair in against_competitors(picture, index, nearly):
        digest = index.images["digest"][pair.row].as_py()
        yield from (replace(pair, row=row) for row in index.by_digest[digest])


def _accounted(picture: DescribedImage, index: ValIndex, accepted: Iterable[_Judged]) -> bool:
    """Whether the `accepted` pairs, but for those with itself, agree with the picture wherever it
    has texture: then it shows no other val image, but those that show the same."""
    itself = index.by_digest.get(picture.digest, [])
    others = [overlay for pair, overlay in accepted if pair.row not in itself]
    parts = [agreeing_with(overlay) for overlay in others]
    if not parts:
        return False
    agreed = np.any([same for same, _ in parts], axis=0)
    textured = np.all([texture for _, texture in parts], axis=0)
    share, of = (
        cv2.resize(mask.astype(np.float32), (PARTS, PARTS), interpolation=cv2.INTER_AREA)
        for mask in (agreed & textured, textured)
    )
    return bool(np.all((share >= HALF * of) | (of < HARDLY)))


def with_row(picture: DescribedImage, index: ValIndex, row: int) -> Iterator[Pair]:
    """The pairs with val image `row`, by each of the states."""
    features = picture.features + picture.coarse
    laid = (_laid(picture, features, index, (number, row)) for number in range(NUM_STATES))
    return (_judged(picture, index, one)[0] for one in laid if one)


def _voted(
    picture: DescribedImage, features: Features, index: ValIndex, asked: tuple[int, float]
) -> list[_Vote]:
    """Votes of `features` in all states; `asked`: how many of them vote, and the least vote."""
    width = picture.grey.shape[1]
    states = [_altered(features, width, number) for number in range(NUM_STATES)]
    votes = index.votes(states, *asked)
    return [(vote, number, row) for number, of in enumerate(votes) for row, vote in of]


def _candidates(votes: list[_Vote]) -> list[_Candidate]:
    """Each once, the most voted first."""
    return list(dict.fromkeys(v[1:] for v in sorted(votes, key=lambda v: (-v[0], *v[1:]))))


class _Laid(NamedTuple):
    """The picture, in one of its states, laid over val image `row`."""

    row: int
    geometry: Fit
    overlay: Overlay
    agreement: PixelAgreement


def _refuted(laid: _Laid | None) -> bool:
    """Whether the coarse features show that the candidate is another picture: many lay one over the
    other, as in two photographs of one room, and the pixels do not agree."""
    return (
        laid is not None
        and laid.geometry.inliers >= SOLID
        and laid.geometry.competing <= MAX_COMPETING * laid.geometry.obeying
        and laid.agreement.share < REFUTED
    )


def _laid(
    picture: DescribedImage, features: Features, index: ValIndex, candidate: _Candidate
) -> _Laid | None:
    """None where these `features` lay the picture nowhere over the val image, the common part is
    too small, or val shows too little."""
    number, row = candidate
    if not index.distinct[row]:
        return None
    is_negative, is_mirrored = divmod(number, 2)
    width = picture.grey.shape[1]
    geometry = fit(_altered(features, width, number), index.features(row), index.config)
    if geometry is None:
        return None
    turned = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) if is_mirrored else np.eye(3)
    grey = 255 - picture.grey if is_negative else picture.grey
    overlay = Overlay(grey, index.grey(row), geometry.homography @ turned)
    agreement = compare(*overlay)
    is_enough = agreement.overlap >= index.config.min_overlap
    return _Laid(row, geometry, overlay, agreement) if is_enough else None


def _unless_other_writing(margin: float, laid: _Laid) -> float:
    """The `margin`, below 0 where the two are pages of equal print that others have filled in."""
    if margin < 0:
        return margin
    left = MAX_OTHER_WRITING - other_writing(*laid.overlay)
    return margin if left >= 0 else left


def _judged(picture: DescribedImage, index: ValIndex, laid: _Laid) -> _Judged:
    """The pair with the val image that the picture is laid over, by how the pixels agree."""
    score = laid.agreement.share
    margin = score - needed(laid.geometry, laid.agreement.overlap, index.config.rule)
    margin = _unless_other_writing(margin, laid)
    width, height, *reduced = index.sizes[laid.row].tolist()
    pool_scale = np.divide(picture.grey.shape[::-1], picture.size)
    whole = rescale(laid.overlay.homography, pool_scale, np.divide((width, height), reduced))
    return Pair(laid.row, "sift", score, laid.geometry.inliers, whole, margin), laid.overlay
