"""The channel sift: descriptors vote for val images, a map between the two pictures is fitted, one
laid over the other and the pixels compared. The picture is searched in four states: as it is,
mirrored, and the negatives of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ppcls_core.dedup.by_hash import Near, hints
from ppcls_core.dedup.index import ValIndex
from ppcls_core.dedup.pairs import NEARLY, Pair, rescale
from ppcls_core.dedup.picture import Picture
from ppcls_core.dedup.pixels import Agreement, compare
from ppcls_core.dedup.rivals import Claim, beside_rivals
from ppcls_core.dedup.sift import Features, mirror, negate
from ppcls_core.dedup.verify import Fit, fit, needed

ENOUGH = 3  # x `min_features`: with fewer the first look decides nothing
SOLID = 12  # inliers of a map that can refute a pair,
RIVAL = 0.35  # x the matches that obey it: so few obey another,
REFUTED = 0.42  # and the pixels agree less
_Candidate = tuple[int, int]  # number of the state, val row
_Vote = tuple[float, int, int]  # how loud, number of the state, val row


@dataclass(frozen=True)
class _State:
    """The picture, or its mirror image or negative: its features, its grey copy, and the map from
    the picture's pixels to its own."""

    features: Features
    grey: np.ndarray
    altered: np.ndarray


def _altered(features: Features, width: int) -> list[Features]:
    """The features of a picture, of its mirror image, and of the negatives of both."""
    mirrored = mirror(features, width)
    return [features, mirrored, negate(features), negate(mirrored)]


def _states(picture: Picture, features: Features) -> list[_State]:
    width = picture.grey.shape[1]
    flip = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
    negative = 255 - picture.grey
    greys = (picture.grey, picture.grey, negative, negative)
    turns = (np.eye(3), flip, np.eye(3), flip)
    states = zip(_altered(features, width), greys, turns, strict=True)
    return [_State(*state) for state in states]


def too_few(picture: Picture) -> bool:
    """Whether the picture shows too little for SIFT."""
    least = picture.config.min_features
    return len(picture.look) < least and len(picture.features) < least


def by_sift(picture: Picture, index: ValIndex, near: Sequence[Near]) -> Iterator[Pair]:
    """Pairs that descriptors vote for, and geometry and pixels confirm.

    The picture is searched in full, which costs several times more, only where a look at a small
    copy finds what it cannot refute, the look shows too little, or the hashes hint at a copy. What
    lettering hides from one of the two searches the other may see.
    """
    config = index.config
    looked = _voted(picture, picture.look, index, (config.look_features, config.look_vote))
    tells = config.look_vote > 0 and len(picture.look) >= ENOUGH * config.min_features
    if tells and not hints(near, config):
        suspects = _candidates(looked)[: config.num_candidates]
        if all(_refuted(picture, index, suspects)):
            return
    voted = _voted(picture, picture.features, index, (config.num_queries, config.min_vote))
    candidates = _candidates(looked + voted)[: config.num_candidates]
    states = _states(picture, picture.features + picture.look)
    judged = (_judged(picture, index, states[state], row) for state, row in candidates)
    claimed = [one for one in judged if one and one[0].margin >= -NEARLY]
    for pair in beside_rivals(picture, index, claimed):
        yield from (replace(pair, row=twin) for twin in index.twins(pair.row))


def with_row(picture: Picture, index: ValIndex, row: int) -> Iterator[Pair]:
    """The pairs with val image `row`, by each of the states."""
    states = _states(picture, picture.features + picture.look)
    judged = (_judged(picture, index, state, row) for state in states)
    return (pair for pair, _ in filter(None, judged))


def _voted(
    picture: Picture, features: Features, index: ValIndex, asked: tuple[int, float]
) -> list[_Vote]:
    """What `asked` (features, least vote) brings."""
    votes = index.votes(_altered(features, picture.grey.shape[1]), *asked)
    return [(vote, state, row) for state, of in enumerate(votes) for row, vote in of]


def _candidates(votes: list[_Vote]) -> list[_Candidate]:
    """Each once, the loudest first."""
    return list(dict.fromkeys(v[1:] for v in sorted(votes, key=lambda v: (-v[0], *v[1:]))))


def _refuted(picture: Picture, index: ValIndex, suspects: list[_Candidate]) -> Iterator[bool]:
    """Of each suspect: whether the look alone tells that the pictures are others. Many keypoints
    lay one over the other, as of one room, and the pixels do not agree."""
    states = _states(picture, picture.look) if suspects else []
    for number, row in suspects:
        laid = _laid(index, states[number], row)
        yield (
            laid is not None
            and laid.geometry.inliers >= SOLID
            and laid.geometry.rival <= RIVAL * laid.geometry.obeying
            and laid.seen.share < REFUTED
        )


class _Laid(NamedTuple):
    """The picture, in one of its states, laid over a val image."""

    geometry: Fit
    claim: Claim
    seen: Agreement


def _laid(index: ValIndex, state: _State, row: int) -> _Laid | None:
    """None where keypoints lay the picture nowhere over val image `row`, the common part is too
    small, or val shows too little."""
    if not index.is_told(row):
        return None
    geometry = fit(state.features, index.features(row), index.config)
    if geometry is None:
        return None
    claim = Claim(state.grey, index.grey(row), geometry.homography @ state.altered)
    seen = compare(*claim)
    return _Laid(geometry, claim, seen) if seen.overlap >= index.config.min_overlap else None


def _judged(
    picture: Picture, index: ValIndex, state: _State, row: int
) -> tuple[Pair, Claim] | None:
    """The pair with val image `row`, by how the pixels agree, if the picture can be laid over."""
    laid = _laid(index, state, row)
    if laid is None:
        return None
    score = laid.seen.share
    margin = score - needed(laid.geometry, laid.seen.overlap, index.config.rule)
    width, height, *reduced = index.sizes[row].tolist()
    pool_scale = np.divide(picture.grey.shape[::-1], picture.size)
    whole = rescale(laid.claim.homography, pool_scale, np.divide((width, height), reduced))
    return Pair(row, "sift", score, laid.geometry.inliers, whole, margin), laid.claim
