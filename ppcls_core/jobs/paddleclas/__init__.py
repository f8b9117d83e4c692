"""PaddleClas's training YAML of 2020, unmodified, as the fields of a `Job`.

Each setting has its effect, or is an error, or is told as without effect here, with the reason.
What PaddleClas passed over in its own files is passed over here, and told.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_catalog.base.config import UserError, parse
from data_catalog.base.errors import errors_of
from ppcls_core.jobs.paddleclas.settings import PaddleClasConfig
from ppcls_core.jobs.paddleclas.training import note, preprocess, training
from ppcls_core.jobs.paddleclas.transforms import (
    OPERATORS,
    NormalizeImageSection,
    OperatorSection,
    RandCropImageSection,
    ResizeImageSection,
)
from ppcls_core.models.registry import spec_of
from ppcls_core.models.specs import Colour

_SECTIONS = {"ARCHITECTURE", "architecture", "LEARNING_RATE", "OPTIMIZER", "TRAIN", "VALID", "Arch"}
# Keys that its files have had under another name too, some for a few weeks.
_RENAMED = {
    "architecture": "ARCHITECTURE",
    "scale_loss": "amp_scale_loss",
    "use_amp": "use_fp16",
    "use_dynamic_loss_scaleing": "use_dynamic_loss_scaling",
}
# Models, likewise; the second is that of our registry.
_MODELS = {
    "CSPResNet50": "CSPResNet50_leaky",
    "EfficientNetLite0": "EfficientNetB0",
    "GhostNet_0_5": "GhostNet_x0_5",
    "GhostNet_1_0": "GhostNet_x1_0",
    "GhostNet_1_3": "GhostNet_x1_3",
    "MobileNetV1_x1_0": "MobileNetV1",
    "MobileNetV2_x1_0": "MobileNetV2",
    "ResNet50_amp": "ResNet50",
    "ResNet_ACNet": "ResNet50_ACNet",
    "ShuffleNetV2_x1_0": "ShuffleNetV2",
}
_SPECS = {"EfficientNetLite0": {"squeeze_excite": False, "fix_head_stem": True, "relu_fn": True}}
_PARAMS = {"use_se": "squeeze_excite", "dropout_prob": "dropout"}
# Settings of a Job and operators, and where they come from; empty: no setting of this form.
_KEYS = {
    **{ours: theirs for theirs, ours in reversed(OPERATORS.items())},
    "model": "ARCHITECTURE",
    "model.spec": "ARCHITECTURE.params",
    "model.spec.mean": "TRAIN.transforms",
    "model.spec.std": "TRAIN.transforms",
    "num_classes": "classes_num",
    "weights": "pretrained_model",
    "teacher": "ARCHITECTURE.name",
    "teacher.model.name": "ARCHITECTURE.name",
    "teacher.model.spec.mean": "TRAIN.transforms",
    "teacher.model.spec.std": "TRAIN.transforms",
    "teacher.weights": "pretrained_model",
    "train": "TRAIN",
    "train.list": "TRAIN.file_list",
    "train.root": "TRAIN.data_dir",
    "val": "VALID",
    "val.list": "VALID.file_list",
    "val.root": "VALID.data_dir",
    "preprocess": "VALID.transforms",
    "preprocess.size": "VALID.transforms",
    "preprocess.short": "VALID.transforms",
    "preprocess.interpolation": "VALID.transforms",
    "output": "model_save_dir",
    "seed": "TRAIN.shuffle_seed",
    "workers": "TRAIN.num_workers",
    "log_every": "print_interval",
    "max_lost": "",
    "save_every": "save_interval",
    "training": "epochs",
    "training.epochs": "epochs",
    "training.batch_size": "TRAIN.batch_size",
    "training.image_size": "image_shape",
    "training.lr": "LEARNING_RATE.params.lr",
    "training.schedule": "LEARNING_RATE.params",
    "training.schedule.name": "LEARNING_RATE.function",
    "training.optimizer": "OPTIMIZER.params",
    "training.optimizer.name": "OPTIMIZER.function",
    "training.regularizer": "OPTIMIZER.regularizer",
    "training.regularizer.name": "OPTIMIZER.regularizer.function",
    "training.clip_norm": "",
    "training.accumulate": "",
    "training.ema_decay": "ema_decay",
    "training.eval_every": "valid_interval",
    "training.precision": "use_fp16",
    "training.precision.dtype": "use_fp16",
    "training.precision.level": "use_pure_fp16",
    "training.precision.loss_scale": "amp_scale_loss",
    "training.precision.dynamic": "use_dynamic_loss_scaling",
    "training.label_smoothing": "ls_epsilon",
    "training.augmentation": "TRAIN.transforms",
    "training.mix": "TRAIN.mix",
    "training.loss": "",
    "training.teacher": "",
    "training.teacher_batch_norm": "",
}
_RATE_NAMES = {"warmup_epochs": "warmup_epoch"}
_GRAPH_PARAMS = {"is_test", "data_format", "image_shape"}


def is_paddleclas(data: Mapping[str, Any]) -> bool:
    """True for the content of a file of PaddleClas, told by its sections."""
    return not _SECTIONS.isdisjoint(data)


def job_fields(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of the `Job` of PaddleClas's file `where`, whose content is `data`.

    What is passed over and could surprise is logged.

    Raises UserError: an unknown key, model, transform, parameter or function, with the closest
    known ones; a value of another type or range; settings that contradict each other.
    """
    if "Arch" in data:
        raise UserError(
            f"{where}: has PaddleClas's form of mid-2021 on (Arch, DataLoader), expected that of "
            "2020 (ARCHITECTURE, TRAIN)"
        )
    form = parse(PaddleClasConfig, _current_names(data, where), where)
    parts = [f"{', '.join(sorted(names))} ({why})" for why, names in sorted(form.unused().items())]
    if parts:
        note(where, f"without effect here: {'; '.join(parts)}")
    student, teacher = _models(form, where)
    weights = [path.rstrip("/") for path in form.pretrained_model]
    fields: dict[str, Any] = {
        "model": student,
        "num_classes": form.classes_num,
        "output": form.model_save_dir or "output",
        "log_every": form.print_interval,
        "save_every": form.save_interval,
        "vdl_dir": form.vdl_dir,
        "topk": form.topk,
    }
    if teacher is not None:
        fields["teacher"] = {"model": teacher, "weights": weights.pop(0) if weights else None}
    if len(weights) > 1:
        raise UserError(
            f"{where}: pretrained_model names {len(form.pretrained_model)} weights, expected one, "
            "or for a distillation those of the teacher and of the student"
        )
    fields["weights"] = weights[0] if weights else None
    for name, section in (("val", form.VALID), ("train", form.TRAIN)):
        if section is not None:
            spaced = section.delimiter.isspace()  # then any white space serves
            delimiter = None if spaced else section.delimiter
            lists = {"list": section.file_list, "root": section.data_dir, "delimiter": delimiter}
            fields[name] = lists
            fields["workers"] = max(1, section.num_workers)
    fields["preprocess"] = preprocess(form, where)
    if form.TRAIN is not None:
        fields["seed"] = form.TRAIN.shuffle_seed
        fields["distill" if teacher else "training"] = training(form, form.TRAIN, where)
        _check_checkpoints(form, Path(fields["output"], student["name"]), where)
    return fields


def key_of(name: str) -> str:
    """The setting of PaddleClas's form that the setting `name`, a.b, of a Job comes from; empty
    where that form has none."""
    parts = name.replace("distill.", "training.", 1).split(".")
    for length in range(len(parts), 0, -1):
        key = _KEYS.get(".".join(parts[:length]))
        if key is not None:
            # The form chooses by `function` what ours chooses by a `name`, which pydantic names.
            rest = [_RATE_NAMES.get(part, part) for part in parts[length:] if not part[0].isupper()]
            return ".".join([key, *rest]) if key else ""
    return name


def _check_checkpoints(form: PaddleClasConfig, folder: Path, where: str) -> None:
    """A training goes on from the checkpoint in its own `folder`, and from no other.

    PaddleClas's checkpoint has an optimizer's state that only PaddleClas can go on from.
    """
    if not form.checkpoints:
        return
    prefix = Path(form.checkpoints)
    if not any(path.exists() for path in (prefix, Path(f"{prefix}.pdparams"))):
        raise UserError(
            f"{where}: checkpoints: no {prefix}, nor {prefix}.pdparams; correct the path, or leave "
            f"it out: the same command again goes on from the checkpoint in {folder}"
        )
    if not (prefix.resolve().is_relative_to(folder.resolve()) and any(folder.glob("*.pdckpt"))):
        raise UserError(
            f"{where}: checkpoints: {prefix} is not of a training in {folder}; give the "
            "model_save_dir of the training that is to go on, or, to start from these weights "
            f"without the optimizer's state, pretrained_model: {prefix}"
        )
    note(where, f"checkpoints: the training goes on from the newest checkpoint in {folder}")


def _current_names(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of `data` under the names of `PaddleClasConfig`."""
    amp = data.get("AMP")
    if isinstance(amp, dict):
        rest = {key: value for key, value in data.items() if key != "AMP"}
        data = {**rest, **amp, "use_fp16": True}
    known = {field.alias or name for name, field in PaddleClasConfig.model_fields.items()}
    names = {name.lower(): name for name in known}
    renamed: dict[str, Any] = {}
    for given, value in data.items():
        key = "fuse_*" if given.startswith("fuse_") else _RENAMED.get(given, given)
        if key in known:
            renamed[key] = value
        elif near := difflib.get_close_matches(key.lower(), names, n=1, cutoff=0.8):
            raise UserError(f"{where}: unknown setting '{key}'; did you mean '{names[near[0]]}'?")
        else:  # passed over, as PaddleClas does
            note(where, f"unknown setting {key[:80]!r} is passed over")
    return renamed


def _models(form: PaddleClasConfig, where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The student's model and, under a name TEACHER_distill_STUDENT, the teacher's."""
    name = form.ARCHITECTURE.name
    first, distill, second = name.partition("_distill_")
    if form.use_distillation is not None and form.use_distillation != bool(distill):
        raise UserError(
            f"{where}: use_distillation is {form.use_distillation}, but ARCHITECTURE.name is "
            f"'{name}'; a distillation is named TEACHER_distill_STUDENT"
        )
    _note_linear(form, second or first, where)
    colours = _colours(form, where)
    student = _model(second or first, form.ARCHITECTURE.params, colours, where)
    return student, _model(first, {}, colours, where) if distill else None


def _operators(form: PaddleClasConfig) -> dict[str, list[OperatorSection]]:
    """The operators of each part that lists some."""
    parts = {"TRAIN": form.TRAIN, "VALID": form.VALID}
    return {name: list(part.transforms) for name, part in parts.items() if part and part.transforms}


def _colours(form: PaddleClasConfig, where: str) -> dict[str, Colour]:
    """Mean and deviation of the whole file, which become a part of the network."""
    found: dict[str, dict[str, Colour]] = {}
    for name, operators in _operators(form).items():
        given = [each for each in operators if isinstance(each, NormalizeImageSection)]
        if len(given) > 1:
            raise UserError(f"{where}: {name}.transforms: NormalizeImage stands there twice")
        if given:
            found[name] = given[0].colours()
        else:
            note(where, f"{name}.transforms has no NormalizeImage; the model's own is taken")
    first = next(iter(found.values()), {})
    if any(colours != first for colours in found.values()):
        raise UserError(
            f"{where}: NormalizeImage differs in TRAIN.transforms and VALID.transforms; the "
            "network sees one kind of images, so make them equal"
        )
    return first


def _note_linear(form: PaddleClasConfig, name: str, where: str) -> None:
    """Warn where an EfficientNet, which was published with cubic interpolation, has another."""
    if not name.startswith("EfficientNetB"):
        return
    for part, operators in _operators(form).items():
        if any(
            isinstance(each, RandCropImageSection | ResizeImageSection) and each.interpolation != 2
            for each in operators
        ):
            note(
                where,
                f"{part}.transforms: {name} wants cubic interpolation (interpolation: 2); "
                "resized otherwise it loses accuracy",
            )


def _model(
    name: str, params: Mapping[str, Any], colours: Mapping[str, Colour], where: str
) -> dict[str, Any]:
    given = {_PARAMS.get(key, key): v for key, v in params.items() if key not in _GRAPH_PARAMS}
    for key in sorted(params.keys() & _GRAPH_PARAMS):
        note(where, f"ARCHITECTURE.params.{key} is passed over; it only steered the static graph")
    name, spec = _MODELS.get(name, name), {**_SPECS.get(name, {}), **given}
    with errors_of(f"{where}: ARCHITECTURE"):
        own = spec_of(name, spec)
    return {"name": name, "spec": spec | {k: v for k, v in colours.items() if getattr(own, k) != v}}
