"""select: the top-k pool images per class, merged with the labelled images.

Files: selection.parquet (image_id, class_id, score; by class, best first), train.parquet (manifest:
the labelled images, then the selected ones without label, no image twice).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.files import atomic_path
from data_catalog.manifest import Manifest, write_manifest
from ppcls_core.labels.select import TopK
from ppcls_core.labels.store import read_labels
from ppcls_core.monitor import check
from tasks.inputs import manifest, num_classes
from tasks.label import fingerprint
from tasks.shards import shard_file
from tasks.stage import Outcome, Stage, Work


def run(work: Work) -> Outcome:
    """Select in one pass over the label shards."""
    best, num_offered = TopK(num_classes(work), work.recipe.select), 0
    for ids, logits in _shards(work):
        best.add(ids, logits)
        num_offered += len(ids)
    selection = best.result()
    with atomic_path(work.path("selection.parquet")) as temporary:
        pq.write_table(selection, temporary, compression="zstd")
    labelled, pool = manifest(work, "data/train.parquet"), manifest(work, "dedup/kept.parquet")
    merged, num_chosen, num_twice = _merge(labelled, pool, selection)
    write_manifest(work.path("train.parquet"), merged)
    per_class = np.bincount(selection["class_id"].to_numpy(), minlength=best.num_classes)
    return Outcome(
        files=["selection.parquet", "train.parquet"],
        counts={
            "in": num_offered,
            "kept": num_chosen,
            "rejected: not among the best k": num_offered - num_chosen - num_twice,
            "rejected: already labelled": num_twice,
            "out": len(merged),
        },
        metrics={
            "per_class": per_class.tolist(),
            "unfilled": int((per_class < best.config.k).sum()),
        },
    )


def _shards(work: Work) -> Iterator[tuple[list[str], np.ndarray]]:
    label = work.inputs["label"]
    for number in range(label.metrics["shards"]):
        work.monitor.progress(number, label.metrics["shards"], "shards")
        check(work.monitor)
        yield read_labels(label.path(shard_file(number, "labels")), fingerprint(work))


def _merge(labelled: Manifest, pool: Manifest, selection: pa.Table) -> tuple[Manifest, int, int]:
    """(labelled and selected images, number added, number selected but labelled already)."""
    wanted = set(selection["image_id"].unique().to_pylist())
    chosen = pool.take(np.array([image_id in wanted for image_id in pool.ids], bool)).table
    known = set(zip(*(labelled.table[c].to_pylist() for c in ("root", "path")), strict=True))
    places = zip(*(chosen[c].to_pylist() for c in ("root", "path")), strict=True)
    new = np.array([place not in known for place in places], bool)
    added = chosen.filter(pa.array(new))
    position = added.schema.get_field_index("label")
    added = added.set_column(position, "label", pa.nulls(added.num_rows, pa.int32()))
    merged = Manifest(pa.concat_tables([labelled.table, added]), labelled.classes)
    return merged, added.num_rows, chosen.num_rows - added.num_rows


STAGE = Stage(
    "select",
    1,
    ("select",),
    (
        "label/shard-*.labels.parquet",
        "dedup/kept.parquet",
        "data/train.parquet",
    ),
    run,
)
