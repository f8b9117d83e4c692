"""evaluate: every model on the validation images, each at its own resolution.

Files: accuracy.json (a row a model: label, architecture, resolution, top1, top5, num_images,
parameters, gain in points over the baseline for the distilled ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_catalog.config import UserError
from data_catalog.files import write_json
from ppcls_core.data.transforms import Preprocess
from tasks.inputs import image_set, trained_model
from tasks.recipe import ModelConfig, Recipe
from tasks.stage import Outcome, Stage, Work

STUDENTS = ("baseline", "distill", "finetune", "fix")


@dataclass(frozen=True)
class Candidate:
    """A trained model and how it is to be tested."""

    stage: str
    model: ModelConfig
    preprocess: Preprocess


def candidates(recipe: Recipe) -> list[Candidate]:
    """The models to compare, the teacher first."""
    students = [
        Candidate(name, recipe.student, getattr(recipe, name).preprocess) for name in STUDENTS
    ]
    return [Candidate("teacher", recipe.teacher.model, recipe.teacher.preprocess), *students]


def run(work: Work) -> Outcome:
    """Measure top-1 and top-5."""
    val = image_set(work, "data/val.parquet")
    rows: list[dict[str, Any]] = []
    for candidate in candidates(work.recipe):
        rows.append(_measure(work, candidate))
        work.monitor.progress(len(rows), len(STUDENTS) + 1, "models")
    baseline = next(row["top1"] for row in rows if row["label"] == "baseline")
    for row in rows:
        compared = row["label"] not in ("teacher", "baseline")
        row["gain"] = 100 * (row["top1"] - baseline) if compared else None
    write_json(work.path("accuracy.json"), rows)
    return Outcome(
        files=["accuracy.json"],
        counts={"in": len(val), "out": rows[0]["num_images"]},
        metrics={row["label"]: row["top1"] for row in rows},
    )


def _measure(work: Work, candidate: Candidate) -> dict[str, Any]:
    from ppcls_core.engine.evaluator import evaluate

    model = trained_model(
        work, candidate.model, work.inputs[candidate.stage].path("model.pdparams")
    )
    val, workers = image_set(work, "data/val.parquet"), work.recipe.run_time.workers
    accuracy = evaluate(model, val, candidate.preprocess, workers, work.monitor)
    if accuracy.num_images == 0:
        raise UserError(f"none of the {len(val)} validation images can be read; check the data set")
    return {
        "label": candidate.stage,
        "architecture": candidate.model.name,
        "resolution": candidate.preprocess.size,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "num_images": accuracy.num_images,
        "rejected": accuracy.rejected,
        "parameters": sum(p.size for p in model.parameters() if p.trainable),
    }


STAGE = Stage(
    "evaluate",
    1,
    ("teacher", "student", *STUDENTS),
    (
        "data/val.parquet",
        "teacher/model.pdparams",
        *(f"{name}/model.pdparams" for name in STUDENTS),
    ),
    run,
)
