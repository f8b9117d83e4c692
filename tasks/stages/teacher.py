"""teacher: given weights taken as they are, or a model trained on labelled images.

Files: model.pdparams, history.json (empty for given weights).
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.files import sha256_file
from ppcls_core.runtime.later import Later
from tasks.recipe import Recipe
from tasks.run.stage import Stage


def given_weights(recipe: Recipe) -> dict[str, str]:
    """sha256 (hex) of the weights that the recipe names, if any."""
    path = recipe.teacher.weights
    return {"teacher.weights": sha256_file(Path(path))} if path else {}


STAGE = Stage(
    "teacher",
    4,
    ("seed", "teacher"),
    ("data/teacher.arrow", "data/val.arrow"),
    Later("tasks.stages.training:teacher"),
    given_weights,
)
