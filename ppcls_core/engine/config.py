"""Settings of a training; a recipe states only what differs from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data_catalog.base.config import Config
from ppcls_core.data.augment import BatchOperator, Operator, RandomCrop, RandomFlip
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.losses import LossName
from ppcls_core.engine.optimizers import Momentum, Optimizer, Regularizer
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.schedules import CosineWarmup, Schedule

CLASSIC: tuple[Operator, ...] = (RandomCrop(), RandomFlip())


class TrainConfig(Config):
    """One training: by default the published recipe's form, momentum SGD under CosineWarmup."""

    epochs: int = Field(gt=0)  # passes over the training images
    batch_size: int = Field(default=64, gt=0)  # images a step, of all devices together
    image_size: int = Field(default=224, ge=32)  # side of what the network sees, pixels
    lr: float = Field(default=0.1, gt=0)  # base of the schedule, for this batch size
    schedule: Schedule = CosineWarmup()  # of the learning rate
    optimizer: Optimizer = Momentum()  # how gradients become steps
    regularizer: Regularizer = Regularizer()  # weight decay
    clip_norm: float | None = Field(default=None, gt=0)  # 2-norm of the whole gradient
    accumulate: int = Field(default=1, gt=0)  # parts of a batch; batch norm sees one of them
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Of averaged weights; none: no average."""
    precision: Precision = Precision()  # in which it is computed, on GPUs
    # Epochs between validations; the last has one. 0: none at all, for `ppcls train` alone.
    eval_every: int = Field(default=10, ge=0)

    @property
    def preprocess(self) -> Preprocess:
        """How the model is tested."""
        return Preprocess(size=self.image_size)

    @field_validator("accumulate")
    @classmethod
    def _divides_batch(cls, accumulate: int, info: ValidationInfo) -> int:
        if info.data.get("batch_size", 0) % accumulate:
            raise ValueError(f"does not divide a batch_size of {info.data['batch_size']}")
        return accumulate


class LabelTraining(TrainConfig):
    """Training on labels: the teacher and the baseline."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label spread over all classes."""
    augmentation: tuple[Operator, ...] = CLASSIC  # of single images, in this order
    mix: BatchOperator | None = None  # pairs of images of a batch mixed into one


class TeacherTraining(LabelTraining):
    """Training of the teacher on labels: from random weights, or of all given weights."""

    mode: Literal["scratch", "finetune"] = "scratch"  # random weights, or the given ones


class Probe(Config):
    """A new classifier on the given weights' features: logistic regression, its L2 chosen by
    cross-validation; all else stays as it is."""

    mode: Literal["probe"]  # tells it from a training


class DistillTraining(TrainConfig):
    """Training on the teacher's outputs, labels unused: distill and finetune."""

    loss: LossName = "ssld"  # ssld: half the Jeffreys divergence, as published; js: the true one
    # Asked in each step, as published; or its stored outputs, see `label.views` of a recipe.
    teacher: Literal["online", "replay"] = "online"
    teacher_batch_norm: Literal["batch", "running"] = "batch"  # published: batch statistics
    augmentation: tuple[Operator, ...] = CLASSIC  # of single images, in this order
    mix: BatchOperator | None = None  # pairs of images of a batch mixed into one

    @model_validator(mode="after")
    def _can_be_replayed(self) -> DistillTraining:
        if self.teacher == "replay" and self.teacher_batch_norm == "batch":
            raise ValueError(
                "`teacher: replay` needs `teacher_batch_norm: running`: the statistics of a batch "
                "are not known when an image is labelled by itself"
            )
        if self.teacher == "replay" and self.mix is not None:
            raise ValueError(
                "`teacher: replay` and `mix` exclude each other: the teacher's output for a "
                "mixture of two images is not the mixture of its stored outputs"
            )
        return self


class FixTraining(TrainConfig):
    """FixRes: the classifier alone, on labels, at a larger resolution, unaugmented."""

    short: int | None = Field(default=None, ge=32)
    """As in Preprocess, but None: `image_size`, as published; larger would show things larger yet
    than the training did, which is what Fix is to undo."""

    @field_validator("short")
    @classmethod
    def _holds_the_crop(cls, short: int | None, info: ValidationInfo) -> int | None:
        if short is not None and short < info.data.get("image_size", 0):
            raise ValueError(f"is less than image_size {info.data['image_size']}")
        return short

    @property
    def preprocess(self) -> Preprocess:
        """How the model is tested, and how it sees the training images."""
        return Preprocess(size=self.image_size, short=self.short or self.image_size)
