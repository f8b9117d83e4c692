"""Which pool images show a validation image: four channels, each checked on the pixels.

The steps for one pool image: equal bytes; equal pixels; near hashes (`by_hash`); SIFT features
(`by_sift`). The rule that decides is documented in `config.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from data_catalog.images.columns import IDS, REJECTED, Source
from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.features import DescribedImage, describe
from ppcls_core.dedup.match.channels import by_hash, by_sift, near_hashes, too_few, with_row
from ppcls_core.dedup.match.index import ValIndex, rejection
from ppcls_core.dedup.match.pairs import CHANNELS, FOUND, Pair
from ppcls_core.runtime.threads import map_threads


@dataclass(frozen=True)
class ScanResult:
    """Tables in the pool's order: `pairs` and `refused` (FOUND; the latter were nearly pairs, or
    competing val images made them none), `rejected` (REJECTED) and `weak` (IDS: images with too few
    features for SIFT to be relied on)."""

    pairs: pa.Table
    refused: pa.Table
    rejected: pa.Table
    weak: pa.Table


def scan(
    sources: Sequence[Source],
    ids: Sequence[str],
    index: ValIndex,
    workers: int,
    on_image: Callable[[], None],
) -> ScanResult:
    """Search every pool image of `sources` for validation images.

    The result depends on the images alone, not on `workers` nor on how a pool is split. `on_image`
    is called once an image, in the calling thread, and may raise to stop: after the images in work.
    """

    def search(item: tuple[str, Source]) -> dict[str, list[dict[str, Any]]]:
        image_id, source = item
        try:
            picture = describe(source, index.config)
        except BadImage as error:
            return {"rejected": [rejection(image_id, error)]}
        pairs, refused = (
            [_found_row(image_id, picture, index, pair) for pair in kind]
            for kind in judge(picture, index)
        )
        weak = [{"image_id": image_id}] * too_few(picture)
        return {"pairs": pairs, "refused": refused, "weak": weak}

    rows = defaultdict[str, list[dict[str, Any]]](list)
    for found in map_threads(search, zip(ids, sources, strict=True), workers):
        for name, more in found.items():
            rows[name] += more
        on_image()
    schemas = {"pairs": FOUND, "refused": FOUND, "rejected": REJECTED, "weak": IDS}
    return ScanResult(**{n: pa.Table.from_pylist(rows[n], s) for n, s in schemas.items()})


def _found_row(
    image_id: str, picture: DescribedImage, index: ValIndex, pair: Pair
) -> dict[str, object]:
    """The FOUND row of a pair."""
    return {
        "pool_id": image_id,
        "val_id": index.ids[pair.row],
        "channel": pair.channel,
        "score": pair.score,
        "inliers": pair.inliers,
        "margin": pair.margin,
        "transform": pair.homography.ravel().tolist(),
        "pool_sha256": picture.bytes_digest,
        "val_sha256": index.bytes_digests[pair.row],
    }


def judge(picture: DescribedImage, index: ValIndex) -> tuple[list[Pair], list[Pair]]:
    """Every val image that `picture` shows, best first, each by the first channel that finds it;
    and those refused: by at most NEARLY, or for competing images."""
    found: dict[int, Pair] = {}
    refused: dict[int, Pair] = {}
    near = near_hashes(picture, index)
    exact, hashed = _equal(picture, index), by_hash(picture, index, near)
    for pair in chain(exact, hashed, by_sift(picture, index, near)):
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


def check_pair(picture: DescribedImage, index: ValIndex, row: int) -> Pair | None:
    """The pair of `picture` with val image `row`, as the first channel that sees it has it, without
    a search among other images."""
    near = near_hashes(picture, index)
    exact, hashed = _equal(picture, index), by_hash(picture, index, near)
    pairs = chain(exact, hashed, with_row(picture, index, row))
    return next((pair for pair in pairs if pair.row == row and pair.margin >= 0), None)


def _equal(picture: DescribedImage, index: ValIndex) -> Iterator[Pair]:
    """Pairs of equal bytes; of equal pixels where these are conclusive."""
    for row in index.by_digest.get(picture.digest, []):
        if index.bytes_digests[row] == picture.bytes_digest:
            yield Pair(row, "bytes", 1.0, 0, np.eye(3), 1.0)
        elif picture.conclusive and index.conclusive[row]:
            yield Pair(row, "pixels", 1.0, 0, np.eye(3), 1.0)
