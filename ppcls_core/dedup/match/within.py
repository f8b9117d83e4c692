"""Near-duplicates within one pool: which image of a pair is removed, and which is kept.

Images are ranked: more pixels first, then by id. One is kept unless it pairs with a better one that
is kept, so each removed has a pair that is kept, and the order of the search does not matter.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.images.columns import Images, Made

Row = dict[str, Any]  # of FOUND
_File = tuple[int, int, int]  # device, inode, offset of the image


def same_files(pairs: Iterable[Row], pool: Images) -> dict[str, str]:
    """Image -> another name of the same file, for each name too many; links go before files."""
    equal = {
        row[side]
        for row in pairs
        if row["channel"] == "bytes" and row["pool_id"] != row["val_id"]
        for side in ("pool_id", "val_id")
    }
    names: defaultdict[_File, list[tuple[bool, int, str]]] = defaultdict(list)
    for place, (image_id, source) in enumerate(pool.find(equal).items() if equal else ()):
        assert not isinstance(source, Made), "an image of a set lies in a file"
        path, offset = (source, -1) if isinstance(source, Path) else source[:2]
        try:
            status = path.stat()
        except OSError:
            continue  # removed since it was searched
        is_link = _is_link(path, pool)
        names[status.st_dev, status.st_ino, offset].append((is_link, place, image_id))
    result = {}
    for entries in names.values():
        (_, _, kept), *others = sorted(entries)
        result |= {image_id: kept for _, _, image_id in others}
    return result


def _is_link(path: Path, pool: Images) -> bool:
    """Whether a link stands on the way from the root to the file."""
    for root in pool.roots.values():
        if path.is_relative_to(root):
            return os.path.realpath(path) != os.path.join(  # noqa: PTH118 - as strings
                os.path.realpath(root), str(path.relative_to(root))
            )
    return path.is_symlink()


def best_first(images: pa.Table, pairs: Iterable[Row]) -> dict[str, int]:
    """Rank of each image of the `pairs`, 0 the best; `images` has their sizes (IMAGES)."""
    names = sorted({row[side] for row in pairs for side in ("pool_id", "val_id")})
    there = pc.is_in(images["image_id"], pa.array(names, pa.string()))
    rows = images.filter(there).select(["image_id", "width", "height"]).to_pylist()
    ranked = sorted(rows, key=lambda row: (-row["width"] * row["height"], row["image_id"]))
    return {row["image_id"]: rank for rank, row in enumerate(ranked)}


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
    """Removed image -> the best kept one that pairs with it. `pairs` come from `one_way`."""
    better: defaultdict[str, list[str]] = defaultdict(list)
    for row in pairs:
        better[row["pool_id"]].append(row["val_id"])
    removed: dict[str, str] = {}
    for image_id in sorted(better, key=rank.__getitem__):
        staying = [other for other in better[image_id] if other not in removed]
        if staying:
            removed[image_id] = min(staying, key=rank.__getitem__)
    return removed


def _turned(row: Row) -> Row:
    back = np.linalg.inv(np.reshape(row["transform"], (3, 3)).astype(np.float64))
    transform = (back / back[2, 2]).ravel().tolist()
    names = ("id", "sha256")
    exchanged = {
        f"{a}_{n}": row[f"{b}_{n}"] for n in names for a, b in (("pool", "val"), ("val", "pool"))
    }
    return row | exchanged | {"transform": transform}
