"""The form of PaddleClas's training YAML of 2020: the settings that change a result, typed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ppcls_core.jobs.paddleclas.transforms import Mix, Section, Transform
from ppcls_core.models.registry import MAX_CLASSES

BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Architecture(Section):
    """A model's name and what its spec changes; the settings lie at any of three depths."""

    name: str
    params: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        """`params` with those beside it and those below `override_params`."""
        if not isinstance(data, dict):
            return {"name": data}  # the form of April 2020
        params = data.get("params") or {}
        if not isinstance(params, dict):
            return data
        beside = {key: data[key] for key in data if key not in ("name", "params")}
        flat = {**beside, **params}
        below = flat.pop("override_params", None) or {}
        if not isinstance(below, dict):
            raise ValueError("expected `key: value` lines below override_params")
        return {"name": data.get("name"), "params": {**flat, **below}}


class RateParams(Section):
    """Of every function; each heeds its own."""

    lr: PositiveFloat = 0.1
    warmup_epoch: NonNegativeFloat | None = None
    decay_epochs: tuple[int, ...] | None = None
    gamma: PositiveFloat | None = None
    steps: PositiveInt | None = None
    end_lr: NonNegativeFloat | None = None


class LearningRate(Section):
    function: Literal["Cosine", "CosineWarmup", "ExponentialWarmup", "Linear", "Piecewise"] = (
        "Cosine"
    )
    params: RateParams = RateParams()


class OptimizerParams(Section):
    """Of every function; each takes its own alone."""

    momentum: BelowOne | None = None
    rho: BelowOne | None = None
    beta1: BelowOne | None = None
    beta2: BelowOne | None = None
    epsilon: PositiveFloat | None = None
    multi_precision: Any = None  # weights kept in float32: always so here


class Regularizer(Section):
    function: Literal["L1", "L2"] = "L2"
    factor: NonNegativeFloat


class Optimizer(Section):
    function: Literal["Adam", "Momentum", "RMSProp"] = "Momentum"
    params: OptimizerParams = OptimizerParams()
    regularizer: Regularizer = Regularizer(factor=0.0)


class LossParams(Section):
    epsilon: BelowOne = 0.0


class Loss(Section):
    """Of files of 2021; those of 2020 say it by ls_epsilon, use_mix and use_distillation."""

    function: Literal["CELoss", "GoogLeNetLoss", "JSDivLoss", "MixCELoss"]
    params: LossParams = LossParams()


class Valid(Section):
    """Which images; without transforms, as with DALI, the usual ones."""

    batch_size: PositiveInt = 64
    num_workers: Annotated[int, Field(ge=0, le=256)] = 4
    file_list: str
    data_dir: str
    shuffle_seed: int = 0
    delimiter: Literal[" "] = " "
    transforms: tuple[Transform, ...] | None = None


class Train(Valid):
    mix: tuple[Mix, ...] = ()


def _paths(given: Any) -> Any:
    """One path or several, those that are empty left out."""
    paths = given if isinstance(given, list) else [given]
    return [path for path in paths if path not in ("", None)]


class Form(Section):
    ARCHITECTURE: Architecture
    LEARNING_RATE: LearningRate = LearningRate()
    OPTIMIZER: Optimizer = Optimizer()
    LOSS: Loss = Loss(function="CELoss")
    TRAIN: Train | None = None
    VALID: Valid | None = None
    pretrained_model: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    model_save_dir: str = "output"
    classes_num: Annotated[int, Field(gt=0, le=MAX_CLASSES)] = 1000
    image_shape: tuple[Literal[3, 4], PositiveInt, PositiveInt] = (3, 224, 224)
    epochs: PositiveInt | None = None
    is_validated: bool = Field(default=True, alias="validate")
    valid_interval: PositiveInt = 1
    print_interval: PositiveInt = 10
    ls_epsilon: Annotated[float, Field(lt=1)] = -1  # below 0: none
    multilabel: Literal[False] = False  # images of several classes: not here
    use_mix: bool = False
    use_distillation: bool | None = None
    use_ema: bool = False
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    use_dali: bool = False
    use_aa: bool = False
    use_fp16: bool = False
    use_pure_fp16: bool = False
    amp_scale_loss: PositiveFloat = 1.0
    use_dynamic_loss_scaling: bool = False
