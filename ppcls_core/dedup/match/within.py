"""Near-duplicates within one pool: which image of a pair is removed, and which is kept.

Images are ranked: more pixels first, then by id. One is kept unless it pairs with a better one that
is kept, so each removed has a pair that is kept, and the order of the search does not matter.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.images.columns import REJECTED, Images, Made

SIDES = ("pool_id", "val_id")
_File = tuple[int, int, int]  # device, inode, offset of the image


def judge_within(pairs: pa.Table, images: pa.Table, pool: Images) -> tuple[pa.Table, pa.Table]:
    """(FOUND, REJECTED) rows of a pool that was searched within: each pair once, by val_id, from
    the worse image to the better; the images that go, as duplicates or as other names of a file.

    `pairs` (FOUND): all that the search has found; `images` (IMAGES) has the images' sizes.
    """
    pairs = pairs.filter(pc.not_equal(pairs["pool_id"], pairs["val_id"]))
    same = same_files(pairs, pool)
    for side in SIDES:
        pairs = pairs.filter(pc.invert(pc.is_in(pairs[side], pa.array(same, pa.string()))))
    pairs = one_way(pairs, _best_first(images, pairs))
    removed = [
        pa.table([list(found), [reason] * len(found), list(found.values())], schema=REJECTED)
        for reason, found in {"duplicate": keep_one_of_each(pairs), "same_file": same}.items()
    ]
    return pairs.sort_by("val_id"), pa.concat_tables(removed)


def same_files(pairs: pa.Table, pool: Images) -> dict[str, str]:
    """Image -> another name of the same file, for each name too many; links go before files."""
    equal = pairs.filter(pc.equal(pairs["channel"], "bytes"))  # names of one file at least are
    wanted = {image_id for side in SIDES for image_id in equal[side].to_pylist()}
    names: defaultdict[_File, list[tuple[bool, int, str]]] = defaultdict(list)
    for place, (image_id, source) in enumerate(pool.find(wanted).items() if wanted else ()):
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


def _best_first(images: pa.Table, pairs: pa.Table) -> pa.Array:
    """Ids of the images of the `pairs`, the best first; `images` has their sizes (IMAGES)."""
    there = pc.or_(*(pc.is_in(images["image_id"], pairs[side].combine_chunks()) for side in SIDES))
    images = images.filter(there)
    ids, pixels = images["image_id"], pc.multiply(images["width"].cast("int64"), images["height"])
    order = pc.sort_indices(
        pa.table({"pixels": pixels, "id": ids}), [("pixels", "descending"), ("id", "ascending")]
    )
    return ids.take(order).combine_chunks()


def one_way(pairs: pa.Table, best_first: pa.Array) -> pa.Table:
    """Each pair once, from the worse image to the better, as its better score has it (FOUND); the
    best images' pairs first. `best_first`: ids of the images, none of which pairs with itself."""
    ranks = np.stack([pc.index_in(pairs[side], best_first).to_numpy() for side in SIDES])
    keys = ranks.max(0).astype(np.int64) * len(best_first) + ranks.min(0)
    by_score = np.argsort(-pairs["score"].to_numpy(), kind="stable")
    rows = by_score[np.unique(keys[by_score], return_index=True)[1]]  # of each key the first
    pairs, is_turned = pairs.take(pa.array(rows)), ranks[0, rows] < ranks[1, rows]
    columns = {name: pairs[name] for name in pairs.column_names}
    for name in ("id", "sha256"):
        sides = f"pool_{name}", f"val_{name}"
        for side, other in (sides, sides[::-1]):
            columns[side] = pc.if_else(pa.array(is_turned), pairs[other], pairs[side])
    maps = pairs["transform"].combine_chunks().flatten().to_numpy().reshape(-1, 3, 3).copy()
    back = np.linalg.inv(maps[is_turned].astype(np.float64))
    maps[is_turned] = back / back[:, 2:, 2:]
    columns["transform"] = pa.FixedSizeListArray.from_arrays(pa.array(maps.ravel()), 9)
    return pa.table(columns, schema=pairs.schema)


def keep_one_of_each(pairs: pa.Table) -> dict[str, str]:
    """Removed image -> the best kept one that pairs with it. `pairs` come from `one_way`."""
    removed: dict[str, str] = {}
    for worse, better in zip(*(pairs[side].to_pylist() for side in SIDES), strict=True):
        if worse not in removed and better not in removed:  # the better one's fate is decided
            removed[worse] = better
    return removed
