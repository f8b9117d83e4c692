"""How PaddleClas's file trains and tests, in our settings."""

import logging
from typing import Any

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.data import augment
from ppcls_core.data.augment import AutoAugment, CenterCrop, Mixup, RandomCrop, Resize
from ppcls_core.engine.config import CLASSIC
from ppcls_core.engine.schedules import CosineWarmup
from ppcls_core.jobs.paddleclas.settings import (
    LearningRate,
    OptimizerSection,
    PaddleClasConfig,
    Train,
)

# By function of the learning rate the parameters that it uses, and our names of them.
_RATE_PARAMS = {
    "Cosine": {},
    "CosineWarmup": {"warmup_epoch": "warmup_epochs"},
    "ExponentialWarmup": {"warmup_epoch": "warmup_epochs"},
    "Linear": {"steps": "steps", "end_lr": "end_lr"},
    "Piecewise": {"decay_epochs": "decay_epochs", "gamma": "gamma"},
}
_log = logging.getLogger(__name__)


def note(where: str, message: str) -> None:
    """Tell what of the file `where` is passed over or taken otherwise than it stands there."""
    _log.warning("%s: %s", where, message)


def training(form: PaddleClasConfig, train: Train, where: str) -> dict[str, Any]:
    """The fields of a LabelTraining, or of a DistillTraining where the model has a teacher. Raises
    UserError: no epochs, image sizes that differ, or a loss or mix that contradicts the rest."""
    if form.epochs is None:
        raise UserError(f"{where}: setting 'epochs' is required")
    mix, distills = _mix(form, train, where), "_distill_" in form.ARCHITECTURE.name
    wanted = {
        "JSDivLoss": distills,
        "MixCELoss": mix is not None,
        "GoogLeNetLoss": form.ARCHITECTURE.name == "GoogLeNet",
    }
    if not wanted.get(form.LOSS.function, True):
        raise UserError(
            f"{where}: LOSS.function is {form.LOSS.function}, but use_mix is {form.use_mix} and "
            f"the model '{form.ARCHITECTURE.name}'; make them agree"
        )
    fields: dict[str, Any] = {
        "epochs": form.epochs,
        "batch_size": train.batch_size,
        "image_size": form.image_shape[1],
        "augmentation": _augmentation(form, train, where),
        "mix": mix,
        "eval_every": form.valid_interval if form.is_validated else 0,
        "lr": form.LEARNING_RATE.params.lr,
        "schedule": _schedule(form.LEARNING_RATE, form.epochs, where),
        **_optimizer(form.OPTIMIZER),
    }
    if form.use_fp16 or form.use_pure_fp16:
        fields["precision"] = {
            "dtype": "fp16",
            "level": "O2" if form.use_pure_fp16 else "O1",
            "loss_scale": form.amp_scale_loss,
            "dynamic": form.use_dynamic_loss_scaling,
        }
    if form.use_ema:
        fields["ema_decay"] = form.ema_decay
    smoothing, other = max(form.ls_epsilon, 0.0), form.LOSS.params.epsilon
    if smoothing and other and smoothing != other:
        raise UserError(
            f"{where}: ls_epsilon is {smoothing:g} and LOSS.params.epsilon {other:g}; keep one"
        )
    smoothing = smoothing or other
    if not distills:
        fields["label_smoothing"] = smoothing
    elif smoothing:
        note(where, "ls_epsilon and LOSS.params.epsilon are passed over; a distillation has none")
    _note_without_switch(form, where)
    return fields


def _note_without_switch(form: PaddleClasConfig, where: str) -> None:
    """Tell the settings of what is switched off."""
    given, is_mixed = form.model_fields_set, form.use_fp16 or form.use_pure_fp16
    if not is_mixed:
        for key in sorted(given & {"amp_scale_loss", "use_dynamic_loss_scaling"}):
            note(where, f"{key} is passed over, since use_fp16 is not True")
    if "ema_decay" in given and not form.use_ema:
        note(where, "ema_decay is passed over, since use_ema is not True")
    if "valid_interval" in given and not form.is_validated:
        note(where, "valid_interval is passed over, since validate is not True")
    if form.VALID and form.TRAIN and form.VALID.num_workers != form.TRAIN.num_workers:
        note(where, "VALID.num_workers is passed over; TRAIN.num_workers serves both")
    if form.use_dali and not (form.use_mix and form.TRAIN and not form.TRAIN.mix):
        note(where, "use_dali is passed over; the reader is this program's own")


def preprocess(form: PaddleClasConfig, where: str) -> dict[str, Any]:
    """The fields of a Preprocess. Raises UserError: not just a short side and its middle square,
    or a square that is larger."""
    if form.VALID is None or form.VALID.transforms is None:
        return {"size": form.image_shape[1]}
    match [operator for item in form.VALID.transforms if (operator := item.ours())]:
        case [Resize(short=int(short), interpolation=interpolation), CenterCrop(size=int(size))]:
            if size > short:
                raise UserError(
                    f"{where}: VALID.transforms: CropImage cuts out {size} pixels, but ResizeImage "
                    f"leaves a short side of {short}; raise resize_short to at least {size}"
                )
            return {"size": size, "short": short, "interpolation": interpolation}
        case _:
            raise UserError(
                f"{where}: VALID.transforms: expected a ResizeImage to a resize_short, then a "
                "CropImage to a whole number, and no others"
            )


def _augmentation(form: PaddleClasConfig, train: Train, where: str) -> tuple[augment.Operator, ...]:
    channels, height, width = form.image_shape
    operators = CLASSIC
    if train.transforms is None:
        note(where, "TRAIN.transforms is missing; a random crop and a flip are taken")
    else:
        operators = tuple(operator for item in train.transforms if (operator := item.ours()))
    sizes = [op.size for op in operators if isinstance(op, RandomCrop | CenterCrop) and op.size]
    if height != width or any(size not in (height, (height, width)) for size in sizes):
        raise UserError(
            f"{where}: image_shape is {list(form.image_shape)}, but TRAIN.transforms give "
            f"{sizes or 'no size'}; make them agree on a square"
        )
    if channels == 4:
        note(where, "image_shape has a fourth channel, which is empty; it is left out")
    if form.use_aa and not any(isinstance(op, AutoAugment) for op in operators):
        note(where, "use_aa is passed over; AutoAugment belongs into TRAIN.transforms")
    return operators


def _mix(form: PaddleClasConfig, train: Train, where: str) -> augment.BatchOperator | None:
    if not form.use_mix:
        if train.mix:
            note(where, "TRAIN.mix is passed over, since use_mix is not True")
        return None
    if not train.mix and form.use_dali:
        note(where, "TRAIN.mix is missing; the mixup of its DALI reader, alpha 0.2, is taken")
        return Mixup(alpha=0.2)
    if len(train.mix) != 1:
        raise UserError(
            f"{where}: use_mix is True, but TRAIN.mix has {counted(len(train.mix), 'operator')}, "
            "expected one, such as `mix: [{MixupOperator: {alpha: 0.2}}]`"
        )
    return train.mix[0].ours()


def _schedule(section: LearningRate, epochs: int, where: str) -> dict[str, Any]:
    function, params = section.function, section.params.model_dump(exclude_none=True)
    params.pop("lr", None)
    if function == "Cosine" and params.get("warmup_epoch"):
        note(where, "LEARNING_RATE: Cosine with a warmup_epoch is taken as CosineWarmup")
        function = "CosineWarmup"
    used = _RATE_PARAMS[function]
    for key in sorted(params.keys() - used):
        note(where, f"LEARNING_RATE.params.{key} is passed over; {function} has none")
    warmup = params.get("warmup_epoch", CosineWarmup().warmup_epochs)
    if "warmup_epoch" in used and warmup >= epochs:
        note(
            where,
            f"LEARNING_RATE.params.warmup_epoch is {warmup:g}, so the rate rises to the end of the "
            f"training, whose epochs are {epochs}",
        )
    return {"name": function, **{used[key]: params[key] for key in params.keys() & used}}


def _optimizer(section: OptimizerSection) -> dict[str, Any]:
    params = section.params.model_dump(exclude_none=True, exclude={"multi_precision"})
    regularizer = section.regularizer
    return {
        "optimizer": {"name": section.function, **params},
        "regularizer": {"name": regularizer.function, "factor": regularizer.factor},
    }
