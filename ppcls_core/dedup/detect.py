"""Which pool images show a validation image: three channels, each checked on the pixels.

The steps for one pool image: equal pixels (exact); perceptual hashes of its eight poses, then the
thumbnails compared (phash); SIFT votes for val images, the map between the two pictures fitted, one
laid over the other and compared (sift). The rule that decides is documented in `config.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.hashes import THUMB, pose, pose_affine, pose_hashes
from ppcls_core.dedup.index import REJECTED, ValIndex, rejection
from ppcls_core.dedup.picture import Picture, describe
from ppcls_core.dedup.pixels import MIN_CORNERS, agreement, compare, num_corners
from ppcls_core.dedup.sift import mirror
from ppcls_core.dedup.threads import map_threads
from ppcls_core.dedup.verify import Fit, fit, needed

MAX_HASH_HITS = 32  # nearest hashes whose thumbnails are compared
CHANNELS = ("exact", "phash", "sift")
PAIRS = pa.schema(
    [
        ("pool_id", pa.string()),
        ("val_id", pa.string()),
        ("channel", pa.string()),
        ("score", pa.float32()),  # share of the common textured area that agrees; 1 when exact
        ("inliers", pa.int32()),  # keypoints that obey the map; 0 for exact and phash
        (
            "transform",
            pa.list_(pa.float32(), 6),
        ),  # 2 x 3, row by row: pool to val pixels
    ]
)


@dataclass(frozen=True)
class Pair:
    """A pool image shows val image `row`; `affine` float64 [2, 3] maps its pixels to that one's.

    Pixel coordinates are continuous: the picture's outer corner is (0, 0), a pixel's centre +0.5.
    """

    row: int
    channel: str
    score: float
    inliers: int
    affine: np.ndarray


@dataclass(frozen=True)
class ScanResult:
    """`pairs` (PAIRS) and `rejected` (REJECTED) tables in the pool's order; `weak`: ids of images
    with too few features for SIFT, searched by the other channels only."""

    pairs: pa.Table
    rejected: pa.Table
    weak: list[str]


def scan(
    paths: Sequence[Path],
    ids: Sequence[str],
    index: ValIndex,
    workers: int,
    on_image: Callable[[], None],
) -> ScanResult:
    """Search every pool image `paths` for validation images.

    The result depends on the images alone, not on `workers` nor on how a pool is split. `on_image`
    is called once an image, in the calling thread, and may raise to stop: the error goes on to the
    caller after the images in work (one a worker) are done.
    """

    def search(item: tuple[str, Path]) -> _Outcome:
        image_id, path = item
        try:
            picture = describe(path, index.config)
        except BadImage as error:
            return _Outcome([], [rejection(image_id, error)], [])
        pairs = [_row(image_id, pair, index) for pair in find_pairs(picture, index)]
        is_weak = len(picture.features) < index.config.min_features
        return _Outcome(pairs, [], [image_id] * is_weak)

    outcomes = map_threads(search, list(zip(ids, paths, strict=True)), workers, on_image)
    pairs = [pair for outcome in outcomes for pair in outcome.pairs]
    rejected = [row for outcome in outcomes for row in outcome.rejected]
    weak = [image_id for outcome in outcomes for image_id in outcome.weak]
    tables = pa.Table.from_pylist(pairs, PAIRS), pa.Table.from_pylist(rejected, REJECTED)
    return ScanResult(*tables, weak)


class _Outcome(NamedTuple):
    """Rows of one image for the three parts of a ScanResult."""

    pairs: list[dict[str, object]]
    rejected: list[dict[str, str]]
    weak: list[str]


def _row(image_id: str, pair: Pair, index: ValIndex) -> dict[str, object]:
    return {
        "pool_id": image_id,
        "val_id": index.ids[pair.row],
        "channel": pair.channel,
        "score": pair.score,
        "inliers": pair.inliers,
        "transform": pair.affine.ravel().tolist(),
    }


def find_pairs(picture: Picture, index: ValIndex) -> list[Pair]:
    """Every val image that `picture` shows, best first, each by the first channel that finds it."""
    found: dict[int, Pair] = {}
    for channel in (_exact, _phash, _sift):
        for pair in channel(picture, index, found):
            found[pair.row] = pair
    return sorted(found.values(), key=lambda p: (-p.score, CHANNELS.index(p.channel), p.row))


def _exact(picture: Picture, index: ValIndex, found: dict[int, Pair]) -> list[Pair]:
    rows = index.by_digest.get(picture.digest, [])
    return [Pair(row, "exact", 1.0, 0, np.eye(2, 3)) for row in rows]


def _phash(picture: Picture, index: ValIndex, found: dict[int, Pair]) -> list[Pair]:
    """Pairs whose hashes are near in one of the eight poses and whose thumbnails then agree."""
    config, pairs = index.config, {}
    bits = np.bitwise_count(pose_hashes(picture.thumb)[:, None] ^ index.hashes)
    near = np.argwhere(bits <= config.hash_distance)
    if len(near) == 0 or num_corners(picture.thumb) < MIN_CORNERS:
        return []
    near = near[np.argsort(bits[tuple(near.T)], kind="stable")][:MAX_HASH_HITS]
    for turn, row in near.tolist():
        if row in found or row in pairs:
            continue
        share = agreement(pose(picture.thumb, turn), index.thumbs[row])
        if share >= config.hash_agreement:
            affine = rescale(pose_affine(turn), np.divide(1, picture.size), index.sizes[row, :2])
            pairs[row] = Pair(row, "phash", share, 0, affine)
    return list(pairs.values())


def _sift(picture: Picture, index: ValIndex, found: dict[int, Pair]) -> list[Pair]:
    """Pairs voted for by descriptors, plain or mirrored, that geometry and pixels confirm."""
    config, plain = index.config, picture.features
    if len(plain) < config.min_features:
        return []
    states = (plain, mirror(plain, picture.grey.shape[1]))
    votes = np.stack([index.votes(state.descriptors) for state in states])
    order = np.argsort(-votes, axis=None, kind="stable")[: config.num_candidates]
    pairs: dict[int, Pair] = {}
    for mirrored, row in zip(*np.unravel_index(order, votes.shape), strict=True):
        if votes[mirrored, row] == 0 or row in found or row in pairs:
            continue
        geometry = fit(states[mirrored], index.features(row), config)
        if geometry is None:
            continue
        pair = _confirm(picture, index, int(row), geometry, bool(mirrored))
        if pair is not None:
            pairs[pair.row] = pair
    return list(pairs.values())


def _confirm(
    picture: Picture, index: ValIndex, row: int, geometry: Fit, mirrored: bool
) -> Pair | None:
    """The pair, when the pixels agree where `geometry` lays the picture over val image `row`."""
    config, affine = index.config, geometry.affine
    if mirrored:
        flip = np.array([[-1.0, 0, picture.grey.shape[1]], [0, 1, 0]])
        affine = compose(affine, flip)
    width, height, reduced_width, reduced_height = index.sizes[row].tolist()
    to_thumb = compose(np.diag([THUMB / reduced_width, THUMB / reduced_height, 1])[:2], affine)
    seen = compare(picture.grey, index.thumbs[row], to_thumb)
    if seen.share < needed(geometry, config) or seen.overlap < config.min_overlap:
        return None
    pool_scale = np.divide(picture.grey.shape[::-1], picture.size)
    val_scale = np.divide((width, height), (reduced_width, reduced_height))
    return Pair(row, "sift", seen.share, geometry.inliers, rescale(affine, pool_scale, val_scale))


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: the affine map `first`, then `second`."""
    linear = second[:, :2] @ first
    linear[:, 2] += second[:, 2]
    return linear


def rescale(affine: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`affine` for coordinates multiplied by `before` (x, y) ahead of it, `after` behind it."""
    return affine * np.append(before, 1.0) * after[:, None]
