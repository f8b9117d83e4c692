"""PaddleClas's training YAML of 2020, unmodified, as the fields of a `Job`.

What only concerned its execution (fused operators, data layout, cards) is left out. What it passed
over in its own files is passed over here, and told; what would change the result and is not
understood is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from data_catalog.base.config import UserError, parse
from ppcls_core.jobs.paddleclas.settings import Form
from ppcls_core.jobs.paddleclas.training import note, preprocess, training
from ppcls_core.models.registry import spec_of

_SECTIONS = {"ARCHITECTURE", "architecture", "LEARNING_RATE", "OPTIMIZER", "TRAIN", "VALID", "Arch"}
# Keys that say how PaddleClas runs, not what it computes.
_EXECUTION = {
    "checkpoints",
    "data_format",
    "enable_addto",
    "image_channel",
    "is_distributed",
    "last_epoch",
    "load_static_weights",
    "mode",
    "multi_precision",
    "save_interval",
    "support_to_static",
    "topk",
    "total_images",
    "use_gpu",
    "use_xpu",
    "vdl_dir",
}
# Keys that its files have had under another name too, some for a few weeks.
_RENAMED = {
    "architecture": "ARCHITECTURE",
    "scale_loss": "amp_scale_loss",
    "use_amp": "use_fp16",
    "use_dynamic_loss_scaleing": "use_dynamic_loss_scaling",
}
# Models, likewise; the second is that of our registry, with fields of its spec.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "CSPResNet50": ("CSPResNet50_leaky", {}),
    "EfficientNetLite0": (
        "EfficientNetB0",
        {"squeeze_excite": False, "fix_head_stem": True, "relu_fn": True},
    ),
    "GhostNet_0_5": ("GhostNet_x0_5", {}),
    "GhostNet_1_0": ("GhostNet_x1_0", {}),
    "GhostNet_1_3": ("GhostNet_x1_3", {}),
    "MobileNetV1_x1_0": ("MobileNetV1", {}),
    "MobileNetV2_x1_0": ("MobileNetV2", {}),
    "ResNet50_amp": ("ResNet50", {}),
    "ResNet_ACNet": ("ResNet50_ACNet", {}),
    "ShuffleNetV2_x1_0": ("ShuffleNetV2", {}),
}
_PARAMS = {"use_se": "squeeze_excite", "dropout_prob": "dropout"}
_GRAPH_PARAMS = {"is_test", "data_format", "image_shape"}  # they only steered the static graph


def is_paddleclas(data: Mapping[str, Any]) -> bool:
    """Whether a file with the content `data` is of PaddleClas's form."""
    return not _SECTIONS.isdisjoint(data)


def job_fields(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of the `Job` of PaddleClas's file `where`, whose content is `data`.

    What is passed over and could surprise is logged.

    Raises:
        UserError: an unknown key, model, transform, parameter or function, with the closest known
            ones; a value of another type or range; settings that contradict each other.
    """
    if "Arch" in data:
        raise UserError(
            f"{where}: has PaddleClas's form of mid-2021 on (Arch, DataLoader), expected that of "
            "2020 (ARCHITECTURE, TRAIN)"
        )
    form = parse(Form, _heeded(data, where), where)
    student, teacher = _models(form, where)
    weights = [path.rstrip("/") for path in form.pretrained_model]
    fields: dict[str, Any] = {
        "model": student,
        "num_classes": form.classes_num,
        "output": form.model_save_dir or "output",
        "log_every": form.print_interval,
    }
    if teacher is not None:
        fields["teacher"] = {"model": teacher, "weights": weights.pop(0) if weights else None}
    fields["weights"] = weights[0] if weights else None
    for name, section in (("val", form.VALID), ("train", form.TRAIN)):
        if section is not None:
            fields[name] = {"list": section.file_list, "root": section.data_dir}
            fields["workers"] = max(1, section.num_workers)
    if form.VALID is not None:
        fields["preprocess"] = preprocess(form, form.VALID, where)
    if form.TRAIN is not None:
        fields["seed"] = form.TRAIN.shuffle_seed
        fields["distill" if teacher else "training"] = training(form, form.TRAIN, where)
    return fields


def _heeded(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of `data` that change a result, under the names of `Form`."""
    amp = data.get("AMP")
    if isinstance(amp, dict):
        rest = {key: value for key, value in data.items() if key != "AMP"}
        data = {**rest, **amp, "use_fp16": True}
    known = {field.alias or name for name, field in Form.model_fields.items()}
    heeded: dict[str, Any] = {}
    for given, value in data.items():
        key = _RENAMED.get(given, given)
        if key in known:
            heeded[key] = value
        elif key not in _EXECUTION and not key.startswith("fuse_"):
            _tell_unknown(key, known, where)
    return heeded


def _tell_unknown(key: str, known: set[str], where: str) -> None:
    """A mistyped key is an error; another is passed over, as PaddleClas does."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), names, n=1, cutoff=0.8)
    if near:
        raise UserError(f"{where}: unknown setting '{key}'; did you mean '{names[near[0]]}'?")
    note(where, f"unknown setting {key[:80]!r} is passed over")


def _models(form: Form, where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The student's model and, under a name TEACHER_distill_STUDENT, the teacher's."""
    name = form.ARCHITECTURE.name
    first, distill, second = name.partition("_distill_")
    if form.use_distillation is not None and form.use_distillation != bool(distill):
        raise UserError(
            f"{where}: use_distillation is {form.use_distillation}, but ARCHITECTURE.name is "
            f"'{name}'; a distillation is named TEACHER_distill_STUDENT"
        )
    student = _model(second or first, form.ARCHITECTURE.params, where)
    return student, _model(first, {}, where) if distill else None


def _model(name: str, params: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = {_PARAMS.get(key, key): v for key, v in params.items() if key not in _GRAPH_PARAMS}
    name, fields = _MODELS.get(name, (name, {}))
    spec = {**fields, **given}
    try:
        spec_of(name, spec)
    except UserError as error:
        raise UserError(f"{where}: ARCHITECTURE: {error}") from None
    return {"name": name, "spec": spec}
