"""The teacher's new classifier where `teacher.train.mode` is `probe`.

What the classifier sees of each labelled image is computed once, on Paddle's inference engine, as
in labelling; logistic regression does the rest.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.base.words import counted
from data_catalog.images.columns import REJECTED
from ppcls_core.data.lost import check_lost, lost_text, reason_counts, rejected_counts
from ppcls_core.data.views import TestView
from ppcls_core.engine.probe import fit_classifier
from ppcls_core.labels.labeller import collect
from ppcls_core.labels.teacher import Answers, Item, NetworkFeatures, items_of
from ppcls_core.models.complexity import count_parameters
from ppcls_core.models.networks.layers import Network
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.shards import Advance, Process, read_shards
from tasks.recipe import TeacherConfig
from tasks.run.processes import make_shards
from tasks.run.stage import Work
from tasks.stages.teachers import engines_of

BATCH_SIZE = 16
FITTED = "images fitted"  # unit of the progress between the features and the classifier
_LABELLED = "overlap/teacher.arrow"
FEATURES = pa.schema([("row", pa.int64()), ("features", pa.list_(pa.float32()))])


def probe(work: Work, config: TeacherConfig, weights: Path, model: Network) -> dict[str, int]:
    """Set the classifier of `model`, which has the given `weights`; the counts of its images.
    Raises UserError: as `check_lost` and `fit_classifier`."""
    images = work.images(_LABELLED)
    seen = NetworkFeatures(preprocess=config.preprocess, model=config.model, weights=weights)
    opening = partial(_describing, seen, 4 * count_parameters(model))
    num_shards = make_shards(work, "probe", len(images), opening)
    folder = work.path("probe")
    found = read_shards(folder, "features", num_shards, FEATURES)
    lost = reason_counts(read_shards(folder, "rejected", num_shards, REJECTED))
    check_lost("training", lost, len(images), work.recipe.run_time.max_lost)
    if text := lost_text("training", lost, len(images)):
        work.monitor.note(text)
    features = found["features"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
    labels = images.labels[found["row"].to_numpy()]
    work.monitor.progress(1, len(found), FITTED)
    strength = fit_classifier(model, features, labels, seed_of(work.recipe.seed, "probe"))
    work.monitor.progress(len(found), len(found), FITTED)
    work.monitor.note(
        f"classifier fitted to {counted(len(found), 'image')}, with C {strength:.4g}, the inverse "
        "of its L2 penalty's weight (a small one keeps it simple), chosen by cross-validation"
    )
    return {"in": len(images), "out": len(found), **rejected_counts(lost)}


@contextmanager
def _describing(seen: NetworkFeatures, size: int, work: Work) -> Iterator[list[Process]]:
    images, view = work.images(_LABELLED), TestView(preprocess=seen.preprocess)

    def features_of(good: Sequence[Item], features: np.ndarray) -> pa.Table:
        return pa.table([[row for _, _, row in good], list(features)], schema=FEATURES)

    def process(answer: Answers, rows: range, advance: Advance) -> dict[str, pa.Table]:
        items = items_of(images, rows, rows)  # there is one view: the row travels as its number
        features, rejected = collect(answer(items), features_of, FEATURES.empty_table(), advance)
        return {"features": features, "rejected": rejected}

    with engines_of(work, size) as engines:
        engines = [replace(engine, batch_size=BATCH_SIZE) for engine in engines]
        yield [partial(process, seen.answers(engine, view)) for engine in engines]
