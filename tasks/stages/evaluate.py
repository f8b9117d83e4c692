"""evaluate: every model on the validation images, each at its own resolution.

Files: accuracy.json (a row a model: label, architecture, resolution, top1, top5, num_images,
parameters; of the distilled ones gain in points over the baseline and change over the one before,
each with its paired 95 % interval; resolution and parameters are null where they are not known, as
of a file of labels); per_class.parquet (PER_CLASS: a row a model and class, also of classes without
images); predictions.parquet (PREDICTIONS with the model's label: a row a model and image that could
be read).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_catalog.base.files import write_json, write_table
from ppcls_core.data.lost import lost_text
from ppcls_core.engine.evaluator import PREDICTIONS, Accuracy, evaluate, predictions
from ppcls_core.labels.teacher import NetworkTeacher
from ppcls_core.models.complexity import count_parameters
from ppcls_core.report.answers import difference
from tasks.recipe import DISTILLED, TRAINED, Recipe
from tasks.run.stage import Outcome, Work
from tasks.stages.teachers import WEIGHTS, measured_teacher, teacher_of
from tasks.stages.training import eval_data, trained_model

_TYPES = {"model": pa.string(), "class_id": pa.int32(), "class": pa.string()}
PER_CLASS = pa.schema(_TYPES | dict.fromkeys(("num_images", "top1_hits", "top5_hits"), pa.int64()))


def run(work: Work) -> Outcome:
    """Measure top-1 and top-5."""
    val = work.images("data/val.arrow")
    rows: list[dict[str, Any]] = []
    classes: list[pa.Table] = []
    answers: dict[str, pa.Table] = {}
    counts: dict[str, int] = {}
    for stage in TRAINED:
        row, found, accuracy = _measure(work, stage)
        if stage == "teacher" and not accuracy.num_images:
            continue  # a file of labels, none of them of a validation image
        rows.append(row)
        answers[stage] = found
        counts = accuracy.counts  # each model reads the same images
        classes.append(_by_class(stage, accuracy, val.classes))
        work.monitor.progress(len(rows), len(TRAINED), "models")
    before: dict[str, str] = dict(zip(DISTILLED[1:], DISTILLED, strict=False))
    for row in rows:
        label = row["label"]
        gain_over = "baseline" if label in DISTILLED else None
        for name, other in (("gain", gain_over), ("change", before.get(label))):
            found = difference(answers[label], answers[other]) if other else (None, ())
            row[name], row[f"{name}_range"] = found
    if text := lost_text("validation", rows[-1]["rejected"], len(val)):
        work.monitor.note(text)
    write_json(work.path("accuracy.json"), rows)
    write_table(work.path("per_class.parquet"), pa.concat_tables(classes))
    every = [_of_model(label, found) for label, found in answers.items()]
    write_table(work.path("predictions.parquet"), pa.concat_tables(every))
    return Outcome(
        files=["accuracy.json", "per_class.parquet", "predictions.parquet"],
        counts=counts,
        metrics={row["label"]: row["top1"] for row in rows},
    )


def _of_model(label: str, found: pa.Table) -> pa.Table:
    return found.replace_schema_metadata(None).append_column(
        "model", pa.array([label] * len(found))
    )


def _measure(work: Work, stage: str) -> tuple[dict[str, Any], pa.Table, Accuracy]:
    if stage == "teacher":
        teacher = teacher_of(work)
        model = teacher.network() if isinstance(teacher, NetworkTeacher) else None
        (found, accuracy), (title, size) = measured_teacher(work), _about(work.recipe)
    else:
        title, size = work.recipe.student.name, getattr(work.recipe, stage).preprocess.size
        model = trained_model(work, work.recipe.student, work.inputs[stage].path(WEIGHTS))
        data = eval_data(work, getattr(work.recipe, stage).preprocess)
        seen = [PREDICTIONS.empty_table()]

        def record(rows: Sequence[int], logits: Sequence[np.ndarray]) -> None:
            ids = [data.images.ids[row] for row in rows]
            seen.append(predictions(ids, data.images.labels[list(rows)], logits[0]))

        accuracy = evaluate(model, data, work.monitor, record)
        found = pa.concat_tables(seen)
    row = {
        "label": stage,
        "architecture": title,
        "resolution": size,
        "top1": accuracy.top1,
        "top5": accuracy.topk,
        "num_images": accuracy.num_images,
        "rejected": accuracy.lost,
        "parameters": model and count_parameters(model),
    }
    return row, found, accuracy


def _about(recipe: Recipe) -> tuple[str, int | None]:
    """Titles of the teachers, and the size of the images if all see the same."""
    teachers = recipe.teachers.values()
    sizes = {t.preprocess and t.preprocess.size for t in teachers}
    return " + ".join(t.title for t in teachers), sizes.pop() if len(sizes) == 1 else None


def _by_class(model: str, accuracy: Accuracy, names: Sequence[str]) -> pa.Table:
    """Rows of PER_CLASS."""
    num_classes = accuracy.by_class.shape[1]
    columns = [[model] * num_classes, range(num_classes), names, *accuracy.by_class]
    return pa.table([pa.array(column) for column in columns], PER_CLASS.names).cast(PER_CLASS)
