"""Near-duplicates within one pool: which image of a pair goes, and which stays.

Images are ranked: more pixels first, then by id. One stays unless it pairs with a better one that
stays, so each that goes has a pair that is kept, and the order of the search does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Row = dict[str, Any]


def best_first(index: Path, ids: list[str]) -> dict[str, int]:
    """Rank of each image that could be read, 0 the best."""
    table = pq.read_table(index / "images.parquet", columns=["image_id", "width", "height"])
    sizes = {row["image_id"]: row["width"] * row["height"] for row in table.to_pylist()}
    ranked = sorted((i for i in ids if i in sizes), key=lambda i: (-sizes[i], i))
    return {image_id: rank for rank, image_id in enumerate(ranked)}


def one_way(pairs: list[Row], rank: dict[str, int]) -> list[Row]:
    """Each pair once, from the worse image to the better, as its better score has it."""
    best: dict[tuple[str, str], Row] = {}
    for row in pairs:
        a, b = row["pool_id"], row["val_id"]
        if a == b:
            continue
        pair = row if rank[a] > rank[b] else _turned(row)
        known = best.setdefault((pair["pool_id"], pair["val_id"]), pair)
        if pair["score"] > known["score"]:
            best[pair["pool_id"], pair["val_id"]] = pair
    return [best[key] for key in sorted(best)]


def keep_one_of_each(pairs: list[Row], rank: dict[str, int]) -> dict[str, str]:
    """Image that goes -> the best one that stays and pairs with it. `pairs` as of `one_way`."""
    better: defaultdict[str, list[str]] = defaultdict(list)
    for row in pairs:
        better[row["pool_id"]].append(row["val_id"])
    gone: dict[str, str] = {}
    for image_id in sorted(better, key=rank.__getitem__):
        staying = [other for other in better[image_id] if other not in gone]
        if staying:
            gone[image_id] = min(staying, key=rank.__getitem__)
    return gone


def _turned(row: Row) -> Row:
    back = np.linalg.inv(np.reshape(row["transform"], (3, 3)).astype(np.float64))
    transform = (back / back[2, 2]).ravel().tolist()
    return row | {"pool_id": row["val_id"], "val_id": row["pool_id"], "transform": transform}
