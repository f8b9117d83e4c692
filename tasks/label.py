"""label: the teacher's logits for every kept pool image.

Files: shard-00000.labels.parquet ... (ppcls_core.labels.store), rejected.parquet (image_id, reason,
detail: images that could not be read any more).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.files import atomic_path, digest_of
from data_catalog.manifest import REJECTED
from tasks.inputs import image_set
from tasks.shards import Advance, read_shards, run_shards, shard_files
from tasks.stage import Outcome, Stage, Work
from tasks.training import teacher_model

if TYPE_CHECKING:
    from ppcls_core.data.loader import ImageSet
    from ppcls_core.models.networks.layers import Network

KINDS = ("labels", "rejected")


def fingerprint(work: Work) -> str:
    """What the labels were made by: teacher weights and resolution."""
    weights = work.inputs["teacher"].digest_of("model.pdparams")
    return digest_of([weights, work.recipe.teacher.image_size])


def run(work: Work) -> Outcome:
    """Label the pool, shard by shard."""
    pool, teacher = image_set(work, "dedup/kept.parquet"), teacher_model(work)

    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        return _label_shard(work, teacher, pool, rows, advance)

    num_shards = run_shards(work, len(pool), process)
    rejected = read_shards(work.directory, "rejected", num_shards, REJECTED)
    with atomic_path(work.path("rejected.parquet")) as temporary:
        pq.write_table(rejected, temporary)
    return Outcome(
        files=["rejected.parquet", *shard_files(num_shards, KINDS)],
        counts={
            "in": len(pool),
            "out": len(pool) - rejected.num_rows,
            "rejected: unreadable": rejected.num_rows,
        },
        metrics={"shards": num_shards},
    )


def _label_shard(
    work: Work, teacher: Network, pool: ImageSet, rows: range, advance: Advance
) -> dict[str, pa.Table]:
    from ppcls_core.data.loader import test_batches
    from ppcls_core.engine.evaluator import predict_logits
    from ppcls_core.labels.store import label_table

    config, workers = work.recipe, work.recipe.run_time.workers
    preprocess = config.teacher.preprocess
    ids, logits, bad_rows = [], [], []
    batches = test_batches(pool, rows, config.label.batch_size, preprocess, workers)
    for good, pixels, bad in batches:
        ids += [pool.ids[row] for row in good]
        bad_rows += [(image_id, e.reason, e.detail) for image_id, e in bad.items()]
        if len(good):
            logits.append(predict_logits(teacher, pixels))
        for _ in range(len(good) + len(bad)):
            advance()
    flat = np.concatenate(logits) if logits else np.empty((0, _num_outputs(teacher)), np.float32)
    rejected = [pa.array(list(column), pa.string()) for column in zip(*bad_rows, strict=True)]
    return {
        "labels": label_table(ids, flat, fingerprint(work)),
        "rejected": pa.table(rejected, schema=REJECTED) if rejected else REJECTED.empty_table(),
    }


def _num_outputs(teacher: Network) -> int:
    from ppcls_core.models.registry import num_classes_of

    return num_classes_of(teacher)


STAGE = Stage(
    "label",
    1,
    ("label", "teacher", "shard_size"),
    ("dedup/kept.parquet", "teacher/model.pdparams"),
    run,
)
