"""select: the top-k pool images per class, merged with the labelled images.

Files: selection.parquet (image_id, class_id, score; by class, best first), train.parquet (manifest:
the labelled images, then the selected ones without label). No image is in it twice: neither a file
nor an image id; of two files with one content the dedup stage knows as far as it searches for them.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.files import write_table
from data_catalog.images.manifest import Manifest, write_manifest
from ppcls_core.labels.select import Selection, select
from ppcls_core.labels.shard import open_shard
from tasks.run.shards import shard_file
from tasks.run.stage import Outcome, Stage, Work
from tasks.stages.inputs import manifest, num_classes
from tasks.stages.label import origin


def run(work: Work) -> Outcome:
    """Select in one pass over the label shards."""
    label, config = work.inputs["label"], work.recipe.select
    paths = [label.path(shard_file(n, "labels")) for n in range(label.metrics["shards"])]
    shards = [open_shard(path, origin(work)) for path in paths]
    if shards:
        found = select(shards, config, work.monitor)
    else:
        found = Selection.nothing(0, num_classes(work))
    write_table(work.path("selection.parquet"), found.table)
    labelled, pool = manifest(work, "data/train.parquet"), manifest(work, "dedup/kept.parquet")
    merged = merge(labelled, pool, found.table["image_id"])
    write_manifest(work.path("train.parquet"), merged)
    num_added = len(merged) - len(labelled)
    return Outcome(
        files=["selection.parquet", "train.parquet"],
        counts={
            "in": found.num_offered,
            "kept": num_added,
            "rejected: not among the best k": found.num_offered - found.num_chosen,
            "rejected: already labelled": found.num_chosen - num_added,
            "out": len(merged),
        },
        metrics={
            "per_class": found.per_class.tolist(),
            "unfilled": int((found.per_class < config.k).sum()),
        },
    )


def merge(labelled: Manifest, pool: Manifest, ids: pa.ChunkedArray) -> Manifest:
    """`labelled`, then the images of `pool` in `ids`, without label.

    Those left out whose file or image id is among the labelled.
    """
    chosen = pool.table.filter(pc.is_in(pool.table["image_id"], ids))
    known = [pc.is_in(of(chosen), of(labelled.table)) for of in (_places, _ids)]
    added = chosen.filter(pc.invert(pc.or_(*known)))
    position = added.schema.get_field_index("label")
    added = added.set_column(position, "label", pa.nulls(added.num_rows, pa.int32()))
    return Manifest(pa.concat_tables([labelled.table, added]), labelled.classes)


def _places(images: pa.Table) -> pa.ChunkedArray:
    """Root and path of each, as one text."""
    return pc.binary_join_element_wise(images["root"], images["path"], "\0")


def _ids(images: pa.Table) -> pa.ChunkedArray:
    return images["image_id"]


STAGE = Stage(
    "select",
    2,
    ("select",),
    (
        "label/shard-*.labels.parquet",
        "dedup/kept.parquet",
        "data/train.parquet",
    ),
    run,
)
