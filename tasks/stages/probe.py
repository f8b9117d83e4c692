"""The teacher's new classifier where `teacher.train.mode` is `probe`.

What the classifier sees of each labelled image is computed once, by child processes on Paddle's
inference engine, as in labelling; logistic regression does the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from data_catalog.images.columns import REJECTED
from ppcls_core.data.lost import REJECTED as COUNTED
from ppcls_core.data.lost import check_lost, counts_of, lost_text
from ppcls_core.data.views import TestView
from ppcls_core.engine.probe import fit_classifier, without_classifier
from ppcls_core.labels.labeller import lost_of, rejected_table
from ppcls_core.labels.teacher import Engine, Item, batches, on_engine
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
        part = images.take(list(rows))  # there is one view: the row travels as its number
        return list(zip(part.ids, part.sources(), rows, strict=True))

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


def _start(number: int, model: ModelConfig, weights: Path, view: TestView, engine: Engine) -> Make:
    network = build_model(model.name, spec=model.spec, pretrained=weights)
    size = view.preprocess.size
    predict = on_engine(without_classifier(network), size, "fp32", (engine.threads, number))

    def make(items: Sequence[Item], advance: Advance) -> dict[str, pa.Table]:
        tables, rejected = [FEATURES.empty_table()], []
        for good, pixels, bad in batches(items, view, engine.batch_size, engine.workers):
            if good:
                columns = [[row for _, _, row in good], list(predict(pixels))]
                tables.append(pa.table(columns, schema=FEATURES))
            rejected += [(item[0], error.reason, error.detail) for item, error in bad]
            for _ in range(len(good) + len(bad)):
                advance()
        return {"features": pa.concat_tables(tables), "rejected": rejected_table(rejected)}

    return make
