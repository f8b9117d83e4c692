"""evaluate: every model on the validation images, each at its own resolution.

Files: accuracy.json (a row a model: label, architecture, resolution, top1, top5, num_images,
parameters, gain in points over the baseline for the distilled ones; resolution and parameters are
null where they are not known, as of a file of labels); per_class.parquet (PER_CLASS:
a row a model and class, also of classes without images).
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from data_catalog.base.files import write_json, write_table
from ppcls_core.data.lost import lost_text
from ppcls_core.engine.evaluator import Accuracy, evaluate
from ppcls_core.labels.teacher import NetworkTeacher
from ppcls_core.models.complexity import count_parameters
from tasks.recipe import TRAINED, Recipe
from tasks.run.stage import Outcome, Work
from tasks.stages.teachers import WEIGHTS, accuracy_of, teacher_of
from tasks.stages.training import eval_data, trained_model

_TYPES = {"model": pa.string(), "class_id": pa.int32(), "class": pa.string()}
PER_CLASS = pa.schema(_TYPES | dict.fromkeys(("num_images", "top1_hits", "top5_hits"), pa.int64()))


def run(work: Work) -> Outcome:
    """Measure top-1 and top-5."""
    val = work.images("data/val.arrow")
    rows: list[dict[str, Any]] = []
    classes: list[pa.Table] = []
    counts: dict[str, int] = {}
    for stage in TRAINED:
        row, accuracy = _measure(work, stage)
        if stage == "teacher" and not accuracy.num_images:
            continue  # a file of labels, none of them of a validation image
        rows.append(row)
        counts = accuracy.counts  # each model reads the same images
        classes.append(_by_class(stage, accuracy, val.classes))
        work.monitor.progress(len(rows), len(TRAINED), "models")
    baseline = next(row["top1"] for row in rows if row["label"] == "baseline")
    for row in rows:
        compared = row["label"] not in ("teacher", "baseline")
        row["gain"] = 100 * (row["top1"] - baseline) if compared else None
    if text := lost_text("validation", rows[-1]["rejected"], len(val)):
        work.monitor.note(text)
    write_json(work.path("accuracy.json"), rows)
    write_table(work.path("per_class.parquet"), pa.concat_tables(classes))
    return Outcome(
        files=["accuracy.json", "per_class.parquet"],
        counts=counts,
        metrics={row["label"]: row["top1"] for row in rows},
    )


def _measure(work: Work, stage: str) -> tuple[dict[str, Any], Accuracy]:
    if stage == "teacher":
        teacher = teacher_of(work)
        model = teacher.network() if isinstance(teacher, NetworkTeacher) else None
        accuracy, (title, size) = accuracy_of(work), _about(work.recipe)
    else:
        title, size = work.recipe.student.name, getattr(work.recipe, stage).preprocess.size
        model = trained_model(work, work.recipe.student, work.inputs[stage].path(WEIGHTS))
        data = eval_data(work, getattr(work.recipe, stage).preprocess)
        accuracy = evaluate(model, data, work.monitor)
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
    return row, accuracy


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
