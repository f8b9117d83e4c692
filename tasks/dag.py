"""The stages in an order that respects what each reads; their `inputs` are the arrows.

data --+--> teacher ---+
       +--> dedup -----+--> label --> select --> views --> distill --> finetune --> fix --> export
       |                                                                            |
       +--> baseline ---------------------------------------------------------------+--> evaluate
                                                                                         |
                                                                          all of them ---+--> report
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.config import UserError, closest
from ppcls_core.models.weights.files import weights_digest
from tasks.recipe import STUDENTS, TRAINED, Recipe
from tasks.run.stage import Stage
from tasks.stages.data import fingerprints


def _given_weights(recipe: Recipe) -> dict[str, str]:
    path = recipe.teacher.weights
    return {"teacher.weights": weights_digest(Path(path))} if path else {}


_HISTORIES = " ".join(f"{name}/history.json" for name in TRAINED)
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("data", 3, "tasks.stages.data:run", "data", external=fingerprints),
        Stage(
            "dedup",
            7,
            "tasks.stages.dedup:run",
            "dedup shard_size",
            "data/pool.arrow data/val.arrow data/planted.parquet",
        ),
        Stage(
            "teacher",
            4,
            "tasks.stages.training:teacher",
            "seed teacher",
            "data/teacher.arrow data/val.arrow",
            _given_weights,
        ),
        Stage(
            "label",
            2,
            "tasks.stages.label:label_pool",
            "label.batch_size label.encoding label.k label.precision teacher shard_size",
            "dedup/kept.arrow teacher/model.pdparams",
        ),
        Stage(
            "select",
            2,
            "tasks.stages.select:run",
            "select",
            "label/shard-*.labels.parquet dedup/kept.arrow data/train.arrow",
        ),
        Stage(
            "views",
            1,
            "tasks.stages.label:label_views",
            "seed label teacher.model distill.augmentation distill.image_size shard_size",
            "select/train.arrow teacher/model.pdparams",
        ),
        Stage(
            "baseline",
            3,
            "tasks.stages.training:baseline",
            "seed student baseline",
            "data/train.arrow data/val.arrow",
        ),
        Stage(
            "distill",
            3,
            "tasks.stages.training:distill",
            "seed student distill",
            "select/train.arrow data/val.arrow teacher/model.pdparams views/*",
        ),
        Stage(
            "finetune",
            3,
            "tasks.stages.training:finetune",
            "seed student finetune",
            "distill/model.pdparams data/train.arrow data/val.arrow teacher/model.pdparams views/*",
        ),
        Stage(
            "fix",
            3,
            "tasks.stages.training:fix",
            "seed student fix",
            "finetune/model.pdparams data/train.arrow data/val.arrow",
        ),
        Stage(
            "evaluate",
            2,
            "tasks.stages.evaluate:run",
            f"teacher student {' '.join(STUDENTS)}",
            " ".join(["data/val.arrow", *(f"{name}/model.pdparams" for name in TRAINED)]),
        ),
        Stage(
            "export",
            3,
            "tasks.stages.export:run",
            "student fix",
            "fix/model.pdparams data/train.arrow",
        ),
        Stage(
            "report",
            4,
            "tasks.stages.report:run",
            f"name seed shard_size data dedup label select student {' '.join(TRAINED)}",
            "data/*.parquet dedup/*.parquet dedup/kept.arrow data/*.arrow label/*.parquet "
            f"select/*.parquet {_HISTORIES} evaluate/accuracy.json export/sidecar.json",
        ),
    )
}


def stage_named(name: str) -> Stage:
    """The stage `name`, or a UserError with the closest name."""
    if name not in STAGES:
        raise UserError(f"no stage '{name}'{closest(name, STAGES)}")
    return STAGES[name]


def needed_for(name: str) -> list[Stage]:
    """The stage `name` and all that it depends on, in order."""
    wanted = {stage_named(name).name}
    for stage in reversed(STAGES.values()):
        if stage.name in wanted:
            wanted.update(stage.upstream)
    return [stage for stage in STAGES.values() if stage.name in wanted]


def following(name: str) -> list[Stage]:
    """The stage `name` and all that depends on it, in order."""
    reached = {stage_named(name).name}
    for stage in STAGES.values():
        if reached.intersection(stage.upstream):
            reached.add(stage.name)
    return [stage for stage in STAGES.values() if stage.name in reached]


OF_STUDENT = {stage.name for name in ("baseline", "views") for stage in following(name)}
"""The stages that several students of a recipe do not have in common."""
