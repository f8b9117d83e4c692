"""The stages in an order that respects what each reads; their `inputs` are the arrows.

data --> overlap --+--> teacher --+
                   +--> dedup ----+--> label --> select --> views --> distill --> finetune --> fix
                   |                                                                            |
                   +--> baseline -----------------------------------------+--> evaluate <-------+
                                                                          |      export <-------+
                                                           all of them ---+--> report
"""

from pathlib import Path

from data_catalog.base.config import UserError, closest
from ppcls_core.dedup.decisions import read_decisions
from ppcls_core.inference.onnx_session import external_data
from ppcls_core.labels.config import OnnxConfig
from ppcls_core.models.weights.files import weights_digest
from tasks.recipe import DISTILLED, GIVEN, STUDENTS, TRAINED, Recipe
from tasks.run.stage import Stage
from tasks.stages.data import fingerprints


def _given_files(recipe: Recipe) -> dict[str, str]:
    """Digests of the files that make up teachers which are not trained here."""
    found: dict[str, Path] = {}
    for place, teacher in recipe.teachers.items():
        for key in GIVEN:
            if path := getattr(teacher, key, None):
                found[f"{place}.{key}"] = Path(path)
        if isinstance(teacher, OnnxConfig):
            data = external_data(Path(teacher.onnx))
            found |= {f"{place}.onnx: {path.name}": path for path in data}
    return {name: weights_digest(path) for name, path in found.items()}


def _decisions(recipe: Recipe) -> dict[str, str]:
    """Digest of a person's decisions, where the recipe names some."""
    file = recipe.dedup.reviewed
    return {"dedup.reviewed": read_decisions(file).digest} if file else {}


# Files, or patterns of files, that a stage reads of others.
_INPUTS = {
    "overlap": "data/train.arrow data/teacher.arrow data/val.arrow",
    "dedup": "data/pool.arrow data/val.arrow data/planted.parquet overlap/index/*",
    "teacher": "overlap/teacher.arrow data/val.arrow",
    "label": "dedup/kept.arrow teacher/model*",
    "select": "label/shard-*.labels.parquet dedup/kept.arrow overlap/train.arrow",
    "views": "select/train.arrow teacher/model* label/engine* label/shard-*.labels.parquet",
    "baseline": "overlap/train.arrow data/val.arrow",
    "distill": "select/train.arrow data/val.arrow teacher/model* views/*",
    "finetune": (
        "distill/model.pdparams overlap/train.arrow data/val.arrow teacher/model* views/*"
    ),
    "fix": "finetune/model.pdparams overlap/train.arrow data/val.arrow",
    "evaluate": " ".join(
        ["data/val.arrow teacher/m*", *(f"{name}/model.pdparams" for name in STUDENTS)]
    ),
    "export": " ".join(
        ["data/train.arrow", *(f"{n}/model.pdparams {n}/history.json" for n in DISTILLED)]
    ),
    "report": (
        "data/*.parquet data/*.arrow overlap/*.parquet overlap/*.arrow dedup/*.parquet "
        "dedup/kept.arrow label/*.parquet "
        f"select/*.parquet {' '.join(f'{name}/history.json' for name in TRAINED)} "
        "evaluate/accuracy.json evaluate/predictions.parquet export/sidecar.json"
    ),
}
_EXTERNAL = {
    "data": fingerprints,
    "overlap": _decisions,
    "dedup": _decisions,
    "teacher": _given_files,
}
_LABELLING = "label.batch_size label.encoding label.k label.precision teacher shard_size"
_VIEWS = (
    "seed label teacher.model teacher.image_size distill.augmentation distill.teacher "
    "finetune.teacher shard_size"
)
_REPORTED = f"name seed shard_size data overlap dedup label select student {' '.join(TRAINED)}"
STAGES: dict[str, Stage] = {
    name: Stage(name, version, function, settings, _INPUTS.get(name, ""), _EXTERNAL.get(name))
    for name, version, function, settings in (
        ("data", 3, "tasks.stages.data:run", "data"),
        ("overlap", 3, "tasks.stages.overlap:run", "overlap dedup shard_size"),
        ("dedup", 10, "tasks.stages.dedup:run", "dedup shard_size"),
        ("teacher", 5, "tasks.stages.training:teacher", "seed teacher"),
        ("label", 3, "tasks.stages.label:label_pool", _LABELLING),
        ("select", 3, "tasks.stages.select:run", "select"),
        ("views", 3, "tasks.stages.label:label_views", _VIEWS),
        ("baseline", 4, "tasks.stages.training:baseline", "seed student baseline"),
        ("distill", 4, "tasks.stages.training:distill", "seed student distill"),
        ("finetune", 4, "tasks.stages.training:finetune", "seed student finetune"),
        ("fix", 5, "tasks.stages.training:fix", "seed student fix"),
        ("evaluate", 4, "tasks.stages.evaluate:run", f"teacher student {' '.join(STUDENTS)}"),
        ("export", 4, "tasks.stages.export:run", f"student {' '.join(DISTILLED)}"),
        ("report", 9, "tasks.stages.report:run", _REPORTED),
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
