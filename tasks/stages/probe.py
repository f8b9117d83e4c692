"""The teacher's new classifier where `teacher.train.mode` is `probe`.

What the classifier sees of each labelled image is computed once, by child processes on Paddle's
inference engine, as in labelling; logistic regression does the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.images.columns import REJECTED
from ppcls_core.data.lost import REJECTED as COUNTED
from ppcls_core.data.lost import check_lost, counts_of, lost_text
from ppcls_core.data.views import TestView
from ppcls_core.engine.probe import fit_classifier, without_classifier
from ppcls_core.labels.labeller import collect, lost_of
from ppcls_core.labels.teacher import Engine, Item, batches, items_of, on_engine
from ppcls_core.models.complexity import count_parameters
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.shards import Advance, read_shards
from tasks.recipe import TeacherConfig
from tasks.run.processes import Make, children, make_shards
from tasks.run.stage import Work
from tasks.stages.teachers import share_of

BATCH_SIZE = 16
FEATURES = pa.schema([("row", pa.int64()), ("features", pa.list_(pa.float32()))])


def probe(work: Work, config: TeacherConfig, weights: Path, model: Network) -> dict[str, int]:
    """Set the classifier of `model`, which has the given `weights`; the counts of its images.
    Raises UserError: as `check_lost` and `fit_classifier`."""
    images = work.images("data/teacher.arrow")

    def tasks(rows: range) -> list[Item]:
        return items_of(images, rows, rows)  # there is one view: the row travels as its number

    num, engine = share_of(work, 4 * count_parameters(model))
    engine, view = replace(engine, batch_size=BATCH_SIZE), TestView(preprocess=config.preprocess)
    with children(num, _start, config.model, weights, view, engine) as makers:
        num_shards = make_shards(work, "probe", len(images), tasks, makers)
    folder = work.path("probe")
    found = read_shards(folder, "features", num_shards, FEATURES)
    lost = counts_of(lost_of(read_shards(folder, "rejected", num_shards, REJECTED)))
    check_lost("training", lost, len(images), work.recipe.run_time.max_lost)
    if text := lost_text("training", lost, len(images)):
        work.monitor.note(text)
    features = found["features"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
    labels = images.labels[found["row"].to_numpy()]
    strength = fit_classifier(model, features, labels, seed_of(work.recipe.seed, "probe"))
    work.monitor.note(f"probe of {len(found):,} images: C {strength:.4g} by cross-validation")
    counts = {COUNTED + reason: number for reason, number in lost.items()}
    return {"in": len(images), "out": len(found), **counts}


def _start(model: ModelConfig, weights: Path, view: TestView, engine: Engine) -> Make:
    network = build_model(model.name, spec=model.spec, pretrained=weights)
    size = view.preprocess.size
    predict = on_engine(without_classifier(network), size, "fp32", engine.threads)

    def rows(good: Sequence[Item], pixels: np.ndarray) -> pa.Table:
        return pa.table([[row for _, _, row in good], list(predict(pixels))], schema=FEATURES)

    def make(items: Sequence[Item], advance: Advance) -> dict[str, pa.Table]:
        loaded = batches(items, view, engine.batch_size, engine.workers)
        features, rejected = collect(loaded, rows, FEATURES.empty_table(), advance)
        return {"features": features, "rejected": rejected}

    return make
