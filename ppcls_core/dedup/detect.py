"""Which pool images show a validation image: four channels, each checked on the pixels.

The steps for one pool image: equal bytes; equal pixels; perceptual hashes of its eight poses, then
the thumbnails compared (phash); SIFT votes for val images, the map between the two pictures fitted,
one laid over the other and compared (sift). The rule that decides is documented in `config.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.hashes import THUMB, pose_affine, pose_hashes, thumbnail
from ppcls_core.dedup.index import REJECTED, ValIndex, rejection
from ppcls_core.dedup.picture import Picture, Source, describe
from ppcls_core.dedup.pixels import COARSE, MIN_CORNERS, compare, lay_over, num_corners, shares
from ppcls_core.dedup.rivals import Claim, share_alone
from ppcls_core.dedup.sift import Features, mirror, negate
from ppcls_core.dedup.threads import map_threads
from ppcls_core.dedup.verify import fit, needed

SURE = 0.95  # score that needs no look at rivals: many val images may show one scene
NEARLY = 0.15  # of the score: pairs refused by less than this are told
ENOUGH = 3  # x `min_features`: with fewer the first look decides nothing
MAX_HASH_HITS = 32  # nearest hashes whose thumbnails are compared
CHANNELS = ("bytes", "pixels", "phash", "sift")
PAIRS = pa.schema(
    [
        ("pool_id", pa.string()),
        ("val_id", pa.string()),
        ("channel", pa.string()),
        ("score", pa.float32()),  # share of the common textured area that agrees; 1 when equal
        ("inliers", pa.int32()),  # keypoints that obey the map; 0 but for sift
        ("margin", pa.float32()),  # the score less what the rule asks for
        ("transform", pa.list_(pa.float32(), 9)),  # 3 x 3, row by row: pool to val pixels
    ]
)


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


@dataclass(frozen=True)
class ScanResult:
    """`pairs` (PAIRS) and `rejected` (REJECTED) tables in the pool's order; `refused` (PAIRS): what
    nearly was a pair, or is none for rivals; `weak`: ids of images with too few features for SIFT
    to be relied on."""

    pairs: pa.Table
    refused: pa.Table
    rejected: pa.Table
    weak: list[str]


def scan(
    sources: Sequence[Source],
    ids: Sequence[str],
    index: ValIndex,
    workers: int,
    on_image: Callable[[], None],
) -> ScanResult:
    """Search every pool image of `sources` for validation images.

    The result depends on the images alone, not on `workers` nor on how a pool is split. `on_image`
    is called once an image, in the calling thread, and may raise to stop: the error goes on to the
    caller after the images in work (a few a worker) are done.
    """

    def search(item: tuple[str, Source]) -> _Outcome:
        image_id, source = item
        try:
            picture = describe(source, index.config)
        except BadImage as error:
            return _Outcome([], [], [rejection(image_id, error)], [])
        pairs, refused = (
            [pair_row(image_id, index.ids[pair.row], pair) for pair in kind]
            for kind in judge(picture, index)
        )
        is_weak = _too_few(picture)
        return _Outcome(pairs, refused, [], [image_id] * is_weak)

    found = _Outcome([], [], [], [])
    for outcome in map_threads(search, zip(ids, sources, strict=True), workers):
        for rows, more in zip(found, outcome, strict=True):
            rows.extend(more)
        on_image()
    tables = (
        pa.Table.from_pylist(found.pairs, PAIRS),
        pa.Table.from_pylist(found.refused, PAIRS),
        pa.Table.from_pylist(found.rejected, REJECTED),
    )
    return ScanResult(*tables, found.weak)


class _Outcome(NamedTuple):
    """Rows for the parts of a ScanResult."""

    pairs: list[Any]
    refused: list[Any]
    rejected: list[Any]
    weak: list[Any]


def pair_row(pool_id: str, val_id: str, pair: Pair) -> dict[str, object]:
    """The PAIRS row of a pair."""
    return {
        "pool_id": pool_id,
        "val_id": val_id,
        "channel": pair.channel,
        "score": pair.score,
        "inliers": pair.inliers,
        "margin": pair.margin,
        "transform": pair.homography.ravel().tolist(),
    }


def find_pairs(picture: Picture, index: ValIndex) -> list[Pair]:
    """Every val image that `picture` shows, best first, each by the first channel that finds it."""
    return judge(picture, index)[0]


def judge(picture: Picture, index: ValIndex) -> tuple[list[Pair], list[Pair]]:
    """The pairs of `find_pairs`, and those refused by at most NEARLY, or for rivals."""
    found: dict[int, Pair] = {}
    refused: dict[int, Pair] = {}
    for channel in (_equal, _phash, _sift):
        for pair in channel(picture, index):
            if pair.margin >= 0:
                found.setdefault(pair.row, pair)
            elif pair.row not in refused or pair.margin > refused[pair.row].margin:
                refused[pair.row] = pair
    nearly = [pair for row, pair in refused.items() if row not in found]
    first, second = (
        sorted(pairs, key=lambda p: (-p.score, CHANNELS.index(p.channel), p.row))
        for pairs in (found.values(), nearly)
    )
    return first, second


def check_pair(picture: Picture, index: ValIndex, row: int) -> Pair | None:
    """The pair of `picture` with val image `row`, as the first channel that sees it has it, without
    a search among other images."""
    by_channel = (
        _equal(picture, index),
        _phash(picture, index),
        (found[0] for state in _states(picture) if (found := _judged(picture, index, state, row))),
    )
    seen = (pair for pairs in by_channel for pair in pairs if pair.row == row)
    return next((pair for pair in seen if pair.margin >= 0), None)


def _equal(picture: Picture, index: ValIndex) -> Iterator[Pair]:
    for row in index.by_digest.get(picture.digest, []):
        equal = index.bytes_digests[row] == picture.bytes_digest
        yield Pair(row, "bytes" if equal else "pixels", 1.0, 0, np.eye(3), 1.0)


def _phash(picture: Picture, index: ValIndex) -> Iterator[Pair]:
    """Pairs whose hashes are near in one of the eight poses and whose thumbnails then agree."""
    bits = np.bitwise_count(pose_hashes(picture.thumb)[:, None] ^ index.hashes)
    near = np.argwhere(bits <= index.config.hash_distance)
    if len(near) == 0 or num_corners(picture.thumb) < MIN_CORNERS:
        return
    near = near[np.argsort(bits[tuple(near.T)], kind="stable")][:MAX_HASH_HITS]
    yield from _beside_rivals(picture, index, list(_alike(picture, index, near)))


def _alike(
    picture: Picture, index: ValIndex, candidates: np.ndarray
) -> Iterator[tuple[Pair, Claim]]:
    """Those of the `candidates` (int [n, 2]: pose, row) whose thumbnails agree, or nearly."""
    for turn, row in candidates.tolist():
        unit = pose_affine(turn)
        across = rescale(unit, np.full(2, 1 / THUMB), np.full(2, THUMB))
        claim = Claim(picture.thumb, thumbnail(index.grey(row)), across)
        share = min(shares(*lay_over(*claim, COARSE)))
        margin = share - index.config.hash_agreement
        if margin >= -NEARLY:
            whole = rescale(unit, np.divide(1, picture.size), index.sizes[row, :2])
            yield Pair(row, "phash", share, 0, whole, margin), claim


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


def _states(picture: Picture) -> list[_State]:
    width = picture.grey.shape[1]
    flip = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
    negative = 255 - picture.grey
    greys = (picture.grey, picture.grey, negative, negative)
    turns = (np.eye(3), flip, np.eye(3), flip)
    states = zip(_altered(picture.features + picture.look, width), greys, turns, strict=True)
    return [_State(*state) for state in states]


def _too_few(picture: Picture) -> bool:
    """Whether the picture shows too little for SIFT."""
    least = picture.config.min_features
    return len(picture.look) < least and len(picture.features) < least


def _voted(
    features: Features, width: int, index: ValIndex, asked: tuple[int, float]
) -> list[_Vote]:
    """(vote, number of the state, val row) of what `asked` (features, least vote) brings."""
    votes = index.votes(_altered(features, width), *asked)
    return [(vote, state, row) for state, of in enumerate(votes) for row, vote in of]


def _sift(picture: Picture, index: ValIndex) -> Iterator[Pair]:
    """Pairs that descriptors vote for, in one of four states, and geometry and pixels confirm.

    Only where a look at a small copy, or too little in it, calls for that: it costs several times
    more. What lettering hides from one of the two searches the other may see.
    """
    config = index.config
    width = picture.grey.shape[1]
    looked = _voted(picture.look, width, index, (config.look_features, config.look_vote))
    if not looked and len(picture.look) >= ENOUGH * config.min_features:
        return
    voted = _voted(picture.features, width, index, (config.num_queries, config.min_vote))
    candidates = _best(picture, looked + voted)
    judged = (_judged(picture, index, *candidate) for candidate in candidates)
    near = [found for found in judged if found and found[0].margin >= -NEARLY]
    yield from _beside_rivals(picture, index, near)


def _best(picture: Picture, votes: list[_Vote]) -> Iterator[tuple[_State, int]]:
    """The candidates with the highest votes."""
    ranked = sorted(votes, key=lambda v: (-v[0], *v[1:]))
    best = dict.fromkeys((state, row) for _, state, row in ranked)
    states = _states(picture)
    for number, row in list(best)[: picture.config.num_candidates]:
        yield states[number], row


def _beside_rivals(
    picture: Picture, index: ValIndex, claimed: list[tuple[Pair, Claim]]
) -> Iterator[Pair]:
    """The pairs, each judged with regard to those of other val images; but the picture itself, of
    which it has all, is no rival of its copies."""
    itself = index.by_digest.get(picture.digest, [])
    rivals = [(pair.row, claim) for pair, claim in claimed if pair.row not in itself]
    for pair, claim in claimed:
        yield _against(pair, claim, [rival for row, rival in rivals if row != pair.row])


def _against(pair: Pair, claim: Claim, others: list[Claim]) -> Pair:
    """The pair, refused when what speaks for it speaks for `others` as well."""
    if pair.margin < 0 or pair.score >= SURE or not others:
        return pair
    share = min(pair.score, share_alone(claim, others))
    margin = pair.margin + share - pair.score
    return pair if margin >= 0 else replace(pair, score=share, margin=margin)


def _judged(
    picture: Picture, index: ValIndex, state: _State, row: int
) -> tuple[Pair, Claim] | None:
    """The pair with val image `row`, by how the pixels agree where keypoints lay the picture over
    it; None where they lay it nowhere, or the common part is too small."""
    config = index.config
    geometry = fit(state.features, index.features(row), config)
    if geometry is None:
        return None
    claim = Claim(state.grey, index.grey(row), geometry.homography @ state.altered)
    seen = compare(*claim)
    if seen.overlap < config.min_overlap:
        return None
    margin = seen.share - needed(geometry, seen.overlap, config.rule)
    width, height, *reduced = index.sizes[row].tolist()
    pool_scale = np.divide(picture.grey.shape[::-1], picture.size)
    whole = rescale(claim.homography, pool_scale, np.divide((width, height), reduced))
    return Pair(row, "sift", seen.share, geometry.inliers, whole, margin), claim


def rescale(homography: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`homography` for coordinates multiplied by `before` (x, y) ahead of it, `after` behind it."""
    whole = np.diag([*after, 1.0]) @ homography @ np.diag([*before, 1.0])
    return whole / whole[2, 2]
