"""A pool image shows a val image: by which channel, how well, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

CHANNELS = ("bytes", "pixels", "phash", "sift")
NEARLY = 0.15  # of the score: pairs refused by less than this are kept to be looked at
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

FOUND = pa.schema([*PAIRS, ("pool_sha256", pa.string()), ("val_sha256", pa.string())])
"""Pairs as the shards of a search keep them: with the sha256 (hex) of both files as searched."""


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


def rescale(homography: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """`homography` for coordinates multiplied by `before` (x, y) ahead of it, `after` behind it."""
    whole = np.diag([*after, 1.0]) @ homography @ np.diag([*before, 1.0])
    return whole / whole[2, 2]
