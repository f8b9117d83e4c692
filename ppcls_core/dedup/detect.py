"""Which pool images show a validation image: four channels, each checked on the pixels.

The steps for one pool image: equal bytes; equal pixels; perceptual hashes of its eight poses, then
the thumbnails compared (phash); SIFT votes for val images, the map between the two pictures fitted,
one laid over the other and compared (sift). The rule that decides is documented in `config.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.hashes import pose, pose_affine, pose_hashes, thumbnail
from ppcls_core.dedup.index import REJECTED, ValIndex, rejection
from ppcls_core.dedup.picture import Picture, Source, describe
from ppcls_core.dedup.pixels import MIN_CORNERS, agreement, compare, num_corners
from ppcls_core.dedup.sift import Features, mirror, negate
from ppcls_core.dedup.threads import map_threads
from ppcls_core.dedup.verify import Fit, fit, needed

MAX_HASH_HITS = 32  # nearest hashes whose thumbnails are compared
CHANNELS = ("bytes", "pixels", "phash", "sift")
PAIRS = pa.schema(
    [
        ("pool_id", pa.string()),
        ("val_id", pa.string()),
        ("channel", pa.string()),
        ("score", pa.float32()),  # share of the common textured area that agrees; 1 when equal
        ("inliers", pa.int32()),  # keypoints that obey the map; 0 but for sift
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
    """`pairs` (PAIRS) and `rejected` (REJECTED) tables in the pool's order; `weak`: ids of images
    with too few features for SIFT, searched by the other channels only."""

    pairs: pa.Table
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
            return _Outcome([], [rejection(image_id, error)], [])
        pairs = [pair_row(image_id, index.ids[p.row], p) for p in find_pairs(picture, index)]
        is_weak = len(picture.features) < index.config.min_features
        return _Outcome(pairs, [], [image_id] * is_weak)

    found = _Outcome([], [], [])
    for outcome in map_threads(search, zip(ids, sources, strict=True), workers):
        found.pairs.extend(outcome.pairs)
        found.rejected.extend(outcome.rejected)
        found.weak.extend(outcome.weak)
        on_image()
    tables = (
        pa.Table.from_pylist(found.pairs, PAIRS),
        pa.Table.from_pylist(found.rejected, REJECTED),
    )
    return ScanResult(*tables, found.weak)


class _Outcome(NamedTuple):
    """Rows for the three parts of a ScanResult."""

    pairs: list[dict[str, object]]
    rejected: list[dict[str, str]]
    weak: list[str]


def pair_row(pool_id: str, val_id: str, pair: Pair) -> dict[str, object]:
    """The PAIRS row of a pair."""
    return {
        "pool_id": pool_id,
        "val_id": val_id,
        "channel": pair.channel,
        "score": pair.score,
        "inliers": pair.inliers,
        "transform": pair.homography.ravel().tolist(),
    }


def find_pairs(picture: Picture, index: ValIndex) -> list[Pair]:
    """Every val image that `picture` shows, best first, each by the first channel that finds it."""
    found: dict[int, Pair] = {}
    for channel in (_equal, _phash, _sift):
        for pair in channel(picture, index):
            found.setdefault(pair.row, pair)
    return sorted(found.values(), key=lambda p: (-p.score, CHANNELS.index(p.channel), p.row))


def check_pair(picture: Picture, index: ValIndex, row: int) -> Pair | None:
    """The pair of `picture` with val image `row`, as the first channel that sees it has it, without
    a search among other images."""
    by_channel = (
        _equal(picture, index),
        _phash(picture, index),
        _confirmed(picture, index, ((state, row) for state in _states(picture))),
    )
    return next((pair for pairs in by_channel for pair in pairs if pair.row == row), None)


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
    for turn, row in near.tolist():
        share = agreement(pose(picture.thumb, turn), thumbnail(index.grey(row)))
        margin = share - index.config.hash_agreement
        if margin >= 0:
            unit = np.vstack([pose_affine(turn), [0, 0, 1]])
            homography = rescale(unit, np.divide(1, picture.size), index.sizes[row, :2])
            yield Pair(row, "phash", share, 0, homography, margin)


@dataclass(frozen=True)
class _State:
    """The picture, or its mirror image or negative: its features, its grey copy, and the map from
    the picture's pixels to its own."""

    features: Features
    grey: np.ndarray
    altered: np.ndarray


def _states(picture: Picture) -> list[_State]:
    width = picture.grey.shape[1]
    flip = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
    plain, mirrored = picture.features, mirror(picture.features, width)
    return [
        _State(plain, picture.grey, np.eye(3)),
        _State(mirrored, picture.grey, flip),
        _State(negate(plain), 255 - picture.grey, np.eye(3)),
        _State(negate(mirrored), 255 - picture.grey, flip),
    ]


def _sift(picture: Picture, index: ValIndex) -> Iterator[Pair]:
    """Pairs that descriptors vote for, in one of four states, and geometry and pixels confirm."""
    config = index.config
    if len(picture.features) < config.min_features:
        return
    states = _states(picture)
    votes = index.votes([state.features for state in states])
    voted = [(-vote, number, row) for number, of in enumerate(votes) for row, vote in of]
    best = sorted(voted)[: config.num_candidates]
    yield from _confirmed(picture, index, ((states[number], row) for _, number, row in best))


def _confirmed(
    picture: Picture, index: ValIndex, candidates: Iterator[tuple[_State, int]] | list
) -> Iterator[Pair]:
    for state, row in candidates:
        geometry = fit(state.features, index.features(row), index.config)
        if geometry is not None:
            pair = _confirm(picture, index, row, state, geometry)
            if pair is not None:
                yield pair


def _confirm(
    picture: Picture, index: ValIndex, row: int, state: _State, geometry: Fit
) -> Pair | None:
    """The pair, when the pixels agree where `geometry` lays the picture over val image `row`."""
    config, homography = index.config, geometry.homography @ state.altered
    seen = compare(state.grey, index.grey(row), homography)
    margin = seen.share - needed(geometry, config.rule)
    if margin < 0 or seen.overlap < config.min_overlap:
        return None
    width, height, *reduced = index.sizes[row].tolist()
    pool_scale = np.divide(picture.grey.shape[::-1], picture.size)
    whole = rescale(homography, pool_scale, np.divide((width, height), reduced))
    return Pair(row, "sift", seen.share, geometry.inliers, whole, margin)


def rescale(homography: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`homography` for coordinates multiplied by `before` (x, y) ahead of it, `after` behind it."""
    whole = np.diag([*after, 1.0]) @ homography @ np.diag([*before, 1.0])
    return whole / whole[2, 2]
