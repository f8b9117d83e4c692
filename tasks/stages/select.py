"""select: the top-k pool images per class, merged with the labelled images.

Files: selection.parquet (image_id, class_id, score; by class, best first), train.arrow (images:
the labelled images, then the selected ones without label). No labelled image is in it twice: what
has its file, its image id or its bytes is not added.
"""
# pyright: reportAttributeAccessIssue=false

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.files import write_table
from data_catalog.images.columns import Images, write_images
from ppcls_core.data.lost import rejected_counts
from ppcls_core.labels.select import SELECTION, Selection, select
from ppcls_core.labels.shard import open_shard
from ppcls_core.runtime.shards import shard_file
from tasks.run.stage import Outcome, Work
from tasks.stages.label import origin_of
from tasks.stages.teachers import test_view

_NOT_CHOSEN = {"best": "not among the best k", "random": "not drawn", "none": "policy none"}
_PIECE = 1 << 18  # rows of the pool at a time: bounds the memory


def run(work: Work) -> Outcome:
    """Select in one pass over the label shards."""
    label, config = work.inputs["label"], work.recipe.select
    paths = [label.path(shard_file(n, "labels")) for n in range(label.metrics["shards"])]
    shards = [open_shard(path, origin_of(work, test_view(work))) for path in paths]
    if shards:
        found = select(shards, config, work.monitor)
    else:
        found = Selection.nothing(0, work.num_classes())
    write_table(work.path("selection.parquet"), found.table)
    labelled, pool = work.images("overlap/train.arrow"), work.images("dedup/kept.arrow")
    is_chosen = pc.is_in(pool.table["image_id"], found.table["image_id"])
    found = replace(found, table=SELECTION.empty_table())  # it is written, and may be large
    merged = merge(labelled, pool, is_chosen)
    write_images(work.path("train.arrow"), merged)
    num_added = len(merged) - len(labelled)
    rejected = {
        _NOT_CHOSEN[config.policy]: found.num_offered - found.num_chosen,
        "already labelled": found.num_chosen - num_added,
    }
    return Outcome(
        files=["selection.parquet", "train.arrow"],
        counts={
            "in": found.num_offered,
            "kept": num_added,
            **rejected_counts(rejected),
            "out": len(merged),
        },
        metrics={
            "per_class": found.per_class.tolist(),
            "unfilled": int((found.per_class < config.k).sum()),
        },
    )


def merge(labelled: Images, pool: Images, is_chosen: pa.ChunkedArray) -> Images:
    """`labelled`, then of `pool` the chosen, unlabelled, of which neither file, id nor content is
    known."""
    known_places, known_ids = _places(labelled.table), labelled.table["image_id"]
    known_contents = labelled.table["content"].drop_null()
    pa.default_memory_pool().release_unused()  # else Arrow keeps what selecting took
    added: list[pa.Table] = []
    for first in range(0, len(pool), _PIECE):
        chosen = pool.table.slice(first, _PIECE).filter(is_chosen.slice(first, _PIECE))
        is_known = pc.is_in(_places(chosen), known_places)
        is_known = pc.or_(is_known, pc.is_in(chosen["image_id"], known_ids))
        is_known = pc.or_(is_known, pc.is_in(chosen["content"], known_contents))
        added.append(chosen.filter(pc.invert(is_known)))
    unlabelled = pa.concat_tables([pool.table.slice(0, 0), *added])
    position = unlabelled.schema.get_field_index("label")
    nothing = pa.nulls(unlabelled.num_rows, pa.int32())
    unlabelled = unlabelled.set_column(position, "label", nothing)
    table = pa.concat_tables([labelled.table, unlabelled])
    return Images(table, pool.roots | labelled.roots, labelled.classes)


def _places(images: pa.Table) -> pa.ChunkedArray:
    """Root, file and offset of each, as one text."""
    path = pc.coalesce(images["path"], images["image_id"].cast(pa.binary()))
    columns = (images["root"].cast(pa.string()), path, images["offset"].cast(pa.string()))
    texts = [pc.coalesce(c.cast(pa.binary()), pa.scalar(b"")) for c in columns]
    return pc.binary_join_element_wise(*texts, pa.scalar(b"\0"))
