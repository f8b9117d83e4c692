"""PaddleClas's training YAML of 2020, unmodified, as a `Job`.

What only concerned its execution (fused operators, DALI, data layout, cards) is left out; a setting
that would change the result and is not understood is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_catalog.config import UserError, closest, override, parse
from ppcls_core.data.transforms import MEAN, STD
from ppcls_core.job import Job

# Keys that say how PaddleClas runs, not what it computes.
_EXECUTION = {
    "mode",
    "total_images",
    "save_interval",
    "topk",
    "use_dali",
    "enable_addto",
    "vdl_dir",
    "use_gpu",
    "use_xpu",
    "is_distributed",
    "checkpoints",
    "last_epoch",
}
_KEYS = {
    "ARCHITECTURE",
    "LEARNING_RATE",
    "OPTIMIZER",
    "TRAIN",
    "VALID",
    "LOSS",
    "amp_scale_loss",
    "classes_num",
    "ema_decay",
    "epochs",
    "image_shape",
    "ls_epsilon",
    "model_save_dir",
    "pretrained_model",
    "print_interval",
    "use_aa",
    "use_distillation",
    "use_dynamic_loss_scaling",
    "use_ema",
    "use_fp16",
    "use_mix",
    "valid_interval",
    "validate",
}
_INTERPOLATIONS = {0: "nearest", 1: "linear", 2: "cubic", 3: "area", 4: "lanczos"}
# Published under these names; the first is that of the networks' functions.
_ALIASES = {"ShuffleNetV2_x1_0": "ShuffleNetV2", "MobileNetV1_x1_0": "MobileNetV1"}


def is_paddleclas(path: Path) -> bool:
    """Whether the YAML file `path` is of PaddleClas's form."""
    try:
        return bool(re.search(r"^ARCHITECTURE\s*:", path.read_text(encoding="utf-8"), re.M))
    except (OSError, UnicodeDecodeError):
        return False


def read_job(path: Path, settings: Sequence[str]) -> Job:
    """The job of PaddleClas's file `path`, with `settings` (`a.b=value`) over it.

    Raises:
        UserError: not YAML; an unknown key, transform, parameter or function, with the closest
            known ones; settings that contradict each other.
    """
    where = str(path)
    try:
        return _job_of(override(_load(path), settings), where)
    # What values of another type than PaddleClas's files have make the functions below raise.
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(
            f"{where}: a value has another form than in PaddleClas's files ({error}); compare it "
            "with a published one"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error


def _job_of(data: dict[str, Any], where: str) -> Job:
    _known(data, _KEYS | _EXECUTION, where, also=("fuse_",))
    _check_loss(data.get("LOSS"), where)
    student, teacher = _models(data, where)
    fields: dict[str, Any] = {
        "model": student,
        "num_classes": data.get("classes_num", 1000),
        "output": data.get("model_save_dir") or "output",
        "log_every": data.get("print_interval", 10),
    }
    weights = _weights(data.get("pretrained_model"))
    if teacher is not None:
        fields["teacher"] = {"model": teacher, "weights": weights[0] if weights else None}
        weights = weights[1:]
    fields["weights"] = weights[0] if weights else None
    if "TRAIN" in data:
        fields |= _train(data, teacher is not None, where)
    if "VALID" in data:
        fields |= _valid(data["VALID"], where)
    return parse(Job, fields, where)


def _load(path: Path) -> dict[str, Any]:
    """Some of the published files give a key twice: the last counts, as in PaddleClas."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: got {type(data).__name__}, expected `key: value` lines")
    return data


def _known(
    data: Mapping[str, Any], known: set[str], where: str, also: tuple[str, ...] = ()
) -> None:
    for key in data:
        if key not in known and not str(key).startswith(also or "\0"):
            raise UserError(f"{where}: unknown setting '{key}'{closest(str(key), known)}")


def _check_loss(section: Mapping[str, Any] | None, where: str) -> None:
    if section is not None and section.get("function") != "CELoss":
        raise UserError(f"{where}: LOSS: got {section.get('function')}, expected CELoss")


def _models(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The student's model and, under a name `X_distill_Y` or use_distillation, the teacher's."""
    section = data["ARCHITECTURE"] or {}
    name = str(section.get("name", ""))
    spec = _spec({**section, **(section.get("params") or {})}, where)
    first, distill, second = name.partition("_distill_")
    if bool(data.get("use_distillation")) != bool(distill):
        raise UserError(
            f"{where}: use_distillation is {bool(data.get('use_distillation'))}, but the "
            f"architecture is '{name}'; a distillation is named TEACHER_distill_STUDENT"
        )
    if not distill:
        return {"name": _ALIASES.get(name, name), "spec": spec}, None
    student = {"name": _ALIASES.get(second, second), "spec": spec}
    return student, {"name": _ALIASES.get(first, first)}


def _spec(params: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of the model's spec; those that only steered the static graph are left out."""
    flat = {**params, **(params.get("override_params") or {})}
    ignored = {"name", "params", "override_params", "is_test", "data_format", "image_shape"}
    renamed = {"use_se": "squeeze_excite", "dropout_prob": "dropout"}
    return {renamed.get(key) or key: v for key, v in flat.items() if key not in ignored}


def _weights(given: Any) -> list[str]:
    paths = [path for path in (given if isinstance(given, list) else [given]) if path]
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"pretrained_model is {given!r:.60}, expected paths")
    return [path.rstrip("/") for path in paths]


def _train(data: Mapping[str, Any], distills: bool, where: str) -> dict[str, Any]:
    section = data["TRAIN"]
    keys = {"batch_size", "num_workers", "file_list", "data_dir", "shuffle_seed", "transforms"}
    _known(section, keys | {"mix"}, f"{where}: TRAIN")
    operators = _operators(section.get("transforms") or [], f"{where}: TRAIN.transforms")
    mixes = section.get("mix") or []
    if bool(data.get("use_mix")) != bool(mixes):
        raise UserError(
            f"{where}: use_mix is {bool(data.get('use_mix'))}, but TRAIN.mix has {len(mixes)} "
            "operators; make them agree"
        )
    size = _image_size(data, operators, where)
    training: dict[str, Any] = {
        "epochs": data.get("epochs"),
        "batch_size": section.get("batch_size", 64),
        "image_size": size,
        "augmentation": operators,
        "mix": _mix(mixes, where),
        "eval_every": data.get("valid_interval", 1) if data.get("validate", True) else 10**9,
        **_schedule(data.get("LEARNING_RATE") or {}, where),
        **_optimizer(data.get("OPTIMIZER") or {}, where),
        **_precision(data),
    }
    if data.get("use_ema"):
        training["ema_decay"] = data.get("ema_decay", 0.9999)
    if distills:
        training["loss"] = "ssld"
    else:
        smoothing = float(data.get("ls_epsilon") or 0.0)
        training["label_smoothing"] = 0.0 if smoothing == -1 else smoothing  # -1: off
    return {
        "train": {"list": section.get("file_list"), "root": section.get("data_dir")},
        "distill" if distills else "training": training,
        "seed": section.get("shuffle_seed") or 0,
        "workers": max(1, int(section.get("num_workers", 4))),
    }


def _valid(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    keys = {"batch_size", "num_workers", "file_list", "data_dir", "shuffle_seed", "transforms"}
    _known(section, keys, f"{where}: VALID")
    operators = _operators(section.get("transforms") or [], f"{where}: VALID.transforms")
    resize = next((op for op in operators if op["name"] == "Resize"), None)
    crop = next((op for op in operators if op["name"] == "CenterCrop"), None)
    side = crop["size"] if crop else resize and resize.get("size")
    if not isinstance(side, int):
        raise UserError(f"{where}: VALID.transforms: expected CropImage or ResizeImage with a size")
    short = (resize or {}).get("short") or side
    interpolation = (resize or {}).get("interpolation", "linear")
    return {
        "val": {"list": section.get("file_list"), "root": section.get("data_dir")},
        "preprocess": {"size": side, "short": short, "interpolation": interpolation},
    }


def _image_size(data: Mapping[str, Any], operators: list[dict[str, Any]], where: str) -> int:
    shape = data.get("image_shape") or [3, 224, 224]
    sized = [op["size"] for op in operators if op["name"] in ("RandomCrop", "CenterCrop")]
    square = len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]
    if not square or any(size != shape[1] for size in sized):
        raise UserError(
            f"{where}: image_shape is {shape}, but the transforms give "
            f"{sized or 'no size'}; make them agree"
        )
    return int(shape[1])


def _schedule(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = {"warmup_epoch": "warmup_epochs", "decay_epochs": "decay_epochs", "gamma": "gamma"}
    names |= {"steps": "steps", "end_lr": "end_lr"}
    _known(section, {"function", "params"}, f"{where}: LEARNING_RATE")
    params = dict(section.get("params") or {})
    lr = params.pop("lr", 0.1)
    _known(params, set(names), f"{where}: LEARNING_RATE.params")
    schedule = {names[key]: value for key, value in params.items()}
    return {"lr": lr, "schedule": {"name": section.get("function", "Cosine"), **schedule}}


def _optimizer(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    _known(section, {"function", "params", "regularizer"}, f"{where}: OPTIMIZER")
    regularizer = section.get("regularizer") or {"function": "L2", "factor": 0.0}
    _known(regularizer, {"function", "factor"}, f"{where}: OPTIMIZER.regularizer")
    optimizer = {"name": section.get("function", "Momentum"), **(section.get("params") or {})}
    return {
        "optimizer": optimizer,
        "regularizer": {"name": regularizer["function"], "factor": regularizer["factor"]},
    }


def _precision(data: Mapping[str, Any]) -> dict[str, Any]:
    if not data.get("use_fp16"):
        return {}
    scale = float(data.get("amp_scale_loss", 1.0))
    dynamic = bool(data.get("use_dynamic_loss_scaling", False))
    return {"precision": {"dtype": "fp16", "loss_scale": scale, "dynamic": dynamic}}


def _operators(transforms: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Our operators' settings; those around the pixels (decode, normalise, layout) are checked."""
    found: list[dict[str, Any]] = []
    for item in transforms:
        ((name, params),) = item.items() if isinstance(item, dict) else ((item, None),)
        if name in _CHECKED:
            _CHECKED[name](params or {}, f"{where}: {name}")
        elif name in _TRANSFORMS:
            found.append(_translate(name, params or {}, where))
        else:
            near = closest(str(name), [*_CHECKED, *_TRANSFORMS])
            raise UserError(f"{where}: unknown transform '{name}'{near}")
    return found


def _translate(name: str, params: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings = _renamed(_TRANSFORMS[name], params, f"{where}: {name}")
    if name == "GridMask" and ("d1" in params or "d2" in params):
        settings["d"] = [params.get("d1", 96), params.get("d2", 224)]
    if name == "RandomErasing" and ("sl" in params or "sh" in params):
        settings["area"] = [params.get("sl", 0.02), params.get("sh", 0.4)]
    return settings


def _renamed(ours: tuple[str, _Fields], params: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our operator's name and settings for PaddleClas's `params`; what is null has its default."""
    name, fields = ours
    _known(params, set(fields), where)
    settings: dict[str, Any] = {"name": name}
    for key, value in params.items():
        settings |= fields[key](value) if value is not None else {}
    return settings


def _field(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value}


def _interpolation(value: Any) -> dict[str, Any]:
    return {"interpolation": _INTERPOLATIONS.get(int(value), "linear")}


def _flip(code: Any) -> dict[str, Any]:
    return {"axis": {1: "horizontal", 0: "vertical", -1: "both"}.get(int(code), code)}


def _nothing(value: Any) -> dict[str, Any]:
    return {}


def _check_normalize(params: Mapping[str, Any], where: str) -> None:
    _known(params, {"scale", "mean", "std", "order", "channel_first"}, where)
    scale = params.get("scale", "1./255.")
    expected = (list(MEAN), list(STD))
    given = (params.get("mean", expected[0]), params.get("std", expected[1]))
    if given != expected or not abs(_fraction(scale) * 255 - 1) < 1e-6:
        raise UserError(f"{where}: expected ImageNet's mean and deviation, and a scale of 1/255")


def _fraction(text: Any) -> float:
    """Value of `1./255.` or a number, without evaluating code."""
    top, slash, bottom = str(text).partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return float("nan")


def _check_decode(params: Mapping[str, Any], where: str) -> None:
    _known(params, {"to_rgb", "to_np", "channel_first"}, where)
    if params.get("to_rgb", True) is not True:
        raise UserError(f"{where}: to_rgb is {params['to_rgb']}, expected True: networks see RGB")


def _check_nothing(params: Mapping[str, Any], where: str) -> None:
    _known(params, set(), where)


_CHECKED: dict[str, Callable[[Mapping[str, Any], str], None]] = {
    "DecodeImage": _check_decode,
    "NormalizeImage": _check_normalize,
    "ToCHWImage": _check_nothing,
}
_Fields = dict[str, Callable[[Any], dict[str, Any]]]
_TRANSFORMS: dict[str, tuple[str, _Fields]] = {
    "RandCropImage": (
        "RandomCrop",
        {
            "size": _field("size"),
            "scale": _field("scale"),
            "ratio": _field("ratio"),
            "interpolation": _interpolation,
        },
    ),
    "RandFlipImage": ("RandomFlip", {"flip_code": _flip}),
    "ResizeImage": (
        "Resize",
        {
            "resize_short": _field("short"),
            "size": _field("size"),
            "interpolation": _interpolation,
        },
    ),
    "CropImage": ("CenterCrop", {"size": _field("size")}),
    "AutoAugment": ("AutoAugment", {}),
    "AA": ("AutoAugment", {}),
    "ImageNetPolicy": ("AutoAugment", {}),
    "RandAugment": (
        "RandAugment",
        {"num_layers": _field("num_layers"), "magnitude": _field("magnitude")},
    ),
    "Cutout": ("Cutout", {"n_holes": _field("num_holes"), "length": _field("length")}),
    "RandomErasing": (
        "RandomErasing",
        {
            "EPSILON": _field("prob"),
            "sl": _nothing,  # with sh: the area
            "sh": _nothing,
            "r1": lambda value: {"aspect": [value, 1 / value]},
            "mean": _nothing,  # of normalised pixels, published as 0: the mean colour
            "attempt": _field("attempts"),
        },
    ),
    "HideAndSeek": ("HideAndSeek", {}),
    "GridMask": (
        "GridMask",
        {
            "d1": _nothing,  # with d2: the period
            "d2": _nothing,
            "rotate": _field("rotate"),
            "ratio": _field("ratio"),
            "mode": _field("mode"),
            "prob": _field("prob"),
        },
    ),
}
_MIXES: dict[str, tuple[str, _Fields]] = {
    "MixupOperator": ("Mixup", {"alpha": _field("alpha")}),
    "CutmixOperator": ("CutMix", {"alpha": _field("alpha")}),
    "FmixOperator": ("FMix", {"alpha": _field("alpha"), "decay_power": _field("decay")}),
}


def _mix(mixes: Sequence[Any], where: str) -> dict[str, Any] | None:
    if not mixes:
        return None
    if len(mixes) > 1:
        raise UserError(f"{where}: TRAIN.mix has {len(mixes)} operators, expected one")
    ((name, params),) = mixes[0].items()
    if name not in _MIXES:
        raise UserError(f"{where}: TRAIN.mix: unknown operator '{name}'{closest(name, _MIXES)}")
    return _renamed(_MIXES[name], params or {}, f"{where}: {name}")
