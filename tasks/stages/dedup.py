"""dedup: which pool images show a validation image, which are unusable, which are kept.

Files: kept.arrow (images of the pool's rest), pairs.parquet (PAIRS), refused.parquet (PAIRS:
those nearly accepted), rejected.parquet (image_id, reason, detail: duplicates have the reason
`duplicate` and the matched val_id as detail), weak.parquet (image_id of those kept that have too
few features for SIFT to be relied on), val_weak.parquet (of validation images with too few for SIFT
to find their copies), canaries.parquet (CANARIES: altered validation images that the stage asks
for itself; they are in no other table or count), index/ (of the validation images), shards.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.files import read_json, write_json, write_table
from data_catalog.images.columns import IDS, REJECTED, Images, write_images
from ppcls_core.runtime.monitor import check
from tasks.run.shards import Advance, read_shards, run_shards, shard_files
from tasks.run.stage import Outcome, Work
from tasks.stages.inputs import images, table

if TYPE_CHECKING:
    from ppcls_core.dedup.match.index import ValIndex

KINDS = ("pairs", "refused", "rejected", "weak")
TABLES = (*KINDS, "val_weak", "canaries")


def run(work: Work) -> Outcome:
    """Scan the pool against the validation images, shard by shard."""
    from ppcls_core.dedup.match.detect import scan
    from ppcls_core.dedup.match.pairs import PAIRS

    index, index_counts = _index(work)
    canaries = _canaries(work, index)
    pool = images(work, "data/pool.arrow")

    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        part = pool.part(rows.start, rows.stop)
        found = scan(part.sources(), part.ids, index, work.recipe.run_time.workers, advance)
        weak = pa.table([found.weak], schema=IDS)
        tables = (found.pairs, found.refused, found.rejected, weak)
        return dict(zip(KINDS, tables, strict=True))

    num_shards = run_shards(work, len(pool), process)
    schemas = (PAIRS, PAIRS, REJECTED, IDS)
    pairs, refused, rejected, weak = (
        read_shards(work.directory, kind, num_shards, schema)
        for kind, schema in zip(KINDS, schemas, strict=True)
    )
    kept, removed = _split(images(work, "data/pool.arrow"), pairs, rejected)
    write_images(work.path("kept.arrow"), kept)
    kept_ids = pa.array(kept.ids, pa.string())
    weak = weak.filter(pc.is_in(weak["image_id"], kept_ids))
    for name, rows in zip(KINDS, (pairs, refused, removed, weak), strict=True):
        write_table(work.path(f"{name}.parquet"), rows)
    write_table(work.path("val_weak.parquet"), pa.table([index.weak], schema=IDS))
    inside = sorted(f"index/{path.name}" for path in work.path("index").iterdir())
    return Outcome(
        files=[
            "kept.arrow",
            *(f"{name}.parquet" for name in TABLES),
            *inside,
            *shard_files(num_shards, KINDS),
        ],
        counts=_counts(len(pool), len(kept), removed),
        metrics={
            "pairs": pairs.num_rows,
            "too_few_features": weak.num_rows,
            "val_too_few_features": len(index.weak),
            "canaries": canaries,
            "planted": _planted_recall(table(work, "data/planted.parquet"), pairs),
            **index_counts,
        },
    )


def _index(work: Work) -> tuple[ValIndex, dict[str, int]]:
    """The index of the validation images, built unless a killed run left it whole."""
    from ppcls_core.dedup.match.index import build_index, load_index

    val, record = images(work, "data/val.arrow"), work.path("index/built.json")

    def progress(done: int) -> None:
        work.monitor.progress(done, len(val), "validation images")
        check(work.monitor)

    if not record.exists():
        stats = build_index(val.sources(), val.ids, work.recipe.dedup, work.path("index"), progress)
        rejected = sum(stats.rejected.values())
        write_json(record, {"val_indexed": stats.num_indexed, "val_rejected": rejected})
    return load_index(work.path("index")), read_json(record)


def _canaries(work: Work, index: ValIndex) -> dict[str, list[int]]:
    """attack -> [found, planted], searched unless a killed run did."""
    from ppcls_core.dedup.canaries import find_canaries, recall

    path, total, done = work.path("canaries.parquet"), work.recipe.dedup.canaries, 0

    def advance() -> None:
        nonlocal done
        done += 1
        work.monitor.progress(done, total, "canaries")
        check(work.monitor)

    if not path.exists():
        val = images(work, "data/val.arrow")
        workers = work.recipe.run_time.workers
        write_table(path, find_canaries(val.find, index, workers, advance))
    return recall(pq.read_table(path))


def _split(pool: Images, pairs: pa.Table, rejected: pa.Table) -> tuple[Images, pa.Table]:
    """(the images of what is kept, a row per image that is not, with the reason)."""
    matched = dict(
        zip(*(reversed(pairs[c].to_pylist()) for c in ("pool_id", "val_id")), strict=True)
    )
    unusable = {row["image_id"]: row for row in rejected.to_pylist()}
    rows = [
        unusable.get(image_id)
        or {"image_id": image_id, "reason": "duplicate", "detail": matched[image_id]}
        for image_id in pool.ids
        if image_id in unusable or image_id in matched
    ]
    removed = pa.Table.from_pylist(rows, schema=rejected.schema)
    gone = {row["image_id"] for row in rows}
    return pool.take(np.array([image_id not in gone for image_id in pool.ids], bool)), removed


def _counts(num_pool: int, num_kept: int, removed: pa.Table) -> dict[str, int]:
    by_reason = Counter(removed["reason"].to_pylist())
    duplicates = by_reason.pop("duplicate", 0)
    assert num_pool == num_kept + duplicates + sum(by_reason.values())
    rejected = {f"rejected: {reason}": number for reason, number in sorted(by_reason.items())}
    return {"in": num_pool, "kept": num_kept, "duplicates": duplicates, **rejected}


def _planted_recall(planted: pa.Table, pairs: pa.Table) -> dict[str, list[int]]:
    """transform -> [found, planted]; found means paired with the image it was made from."""
    found = set(zip(pairs["pool_id"].to_pylist(), pairs["val_id"].to_pylist(), strict=True))
    recall: dict[str, list[int]] = {}
    for row in planted.to_pylist():
        score = recall.setdefault(row["transform"], [0, 0])
        score[0] += (row["pool_id"], row["val_id"]) in found
        score[1] += 1
    return dict(sorted(recall.items()))
