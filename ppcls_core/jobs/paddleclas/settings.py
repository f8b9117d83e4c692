"""The schema of PaddleClas's training YAML of 2020: every setting that is accepted, typed.

A setting has its effect, or is refused, or is marked `Unused` with the reason that the user reads.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ppcls_core.jobs.paddleclas.transforms import Layout, Mix, Section, Transform, Unused
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


Device = Annotated[Any, Unused("the devices are those of the launch")]
Given = Annotated[Any, Unused("the command says it")]
Graph = Annotated[Any, Unused("there is no static graph to steer")]


class RateParams(Section):
    """Parameters of the learning-rate functions; each function uses its own."""

    lr: PositiveFloat = 0.1
    warmup_epoch: NonNegativeFloat | None = None
    decay_epochs: tuple[int, ...] | None = None
    gamma: PositiveFloat | None = None
    steps: PositiveInt | None = None
    end_lr: NonNegativeFloat | None = None


class LearningRate(Section):
    """The learning rate over the training."""

    function: Literal["Cosine", "CosineWarmup", "ExponentialWarmup", "Linear", "Piecewise"] = (
        "Linear"
    )
    params: RateParams = RateParams()


class OptimizerParams(Section):
    """Parameters of the optimizers; each takes its own alone."""

    momentum: BelowOne | None = None
    rho: BelowOne | None = None
    beta1: BelowOne | None = None
    beta2: BelowOne | None = None
    epsilon: PositiveFloat | None = None
    multi_precision: Annotated[Any, Unused("weights are always kept in float32")] = None


class RegularizerSection(Section):
    """The weight decay."""

    function: Literal["L1", "L2"] = "L2"
    factor: NonNegativeFloat


class OptimizerSection(Section):
    """How gradients become steps."""

    function: Literal["Adam", "Momentum", "RMSProp"] = "Momentum"
    params: OptimizerParams = OptimizerParams()
    regularizer: RegularizerSection = RegularizerSection(factor=0.0)


class LossParams(Section):
    """`epsilon`: label smoothing."""

    epsilon: BelowOne = 0.0


class Loss(Section):
    """The loss in files of 2021; in 2020 ls_epsilon, use_mix and use_distillation said it."""

    function: Literal["CELoss", "GoogLeNetLoss", "JSDivLoss", "MixCELoss"]
    params: LossParams = LossParams()


class ImageSection(Section):
    """Labelled images; without transforms, as with DALI, the usual ones are taken."""

    num_workers: Annotated[int, Field(ge=0, le=256)] = 4
    file_list: str
    data_dir: str
    delimiter: Annotated[str, Field(min_length=1)] = " "
    transforms: tuple[Transform, ...] | None = None


class Valid(ImageSection):
    """The validation images."""

    batch_size: Annotated[Any, Unused("VALID: an evaluation takes batches that fit")] = None
    shuffle_seed: Annotated[Any, Unused("VALID: an evaluation does not shuffle")] = None


class Train(ImageSection):
    """The training images."""

    batch_size: PositiveInt = 64
    shuffle_seed: int = 0
    mix: tuple[Mix, ...] = ()


def _paths(given: Any) -> Any:
    """One path or several, those that are empty left out."""
    paths = given if isinstance(given, list) else [given]
    return [path for path in paths if path not in ("", None)]


class PaddleClasConfig(Section):
    """The whole file, under the names of mid-2020."""

    ARCHITECTURE: Architecture
    LEARNING_RATE: LearningRate = LearningRate()
    OPTIMIZER: OptimizerSection = OptimizerSection()
    LOSS: Loss = Loss(function="CELoss")
    TRAIN: Train | None = None
    VALID: Valid | None = None
    pretrained_model: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    checkpoints: str | None = None
    model_save_dir: str = "output"
    save_interval: PositiveInt = 1
    vdl_dir: str | None = None
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
    topk: PositiveInt = 5
    mode: Given = None
    use_gpu: Device = None
    use_xpu: Device = None
    is_distributed: Device = None
    data_format: Layout = None
    image_channel: Layout = None
    enable_addto: Graph = None
    fused: Graph = Field(default=None, alias="fuse_*")
    support_to_static: Graph = None
    multi_precision: Annotated[Any, Unused("weights are always kept in float32")] = None
    total_images: Annotated[Any, Unused("the lines of TRAIN.file_list are counted")] = None
    last_epoch: Annotated[Any, Unused("a checkpoint holds it")] = None
    load_static_weights: Annotated[Any, Unused("the weights' format is recognised")] = None
