"""Settings of a training stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_catalog.config import Config
from ppcls_core.data.transforms import Augmentation


class TrainConfig(Config):
    """One training: momentum SGD under CosineWarmup, the published recipe's form."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(default=64, gt=0)
    image_size: int = Field(default=224, ge=32)
    lr: float = Field(default=0.1, gt=0)  # peak, for this batch size
    warmup_epochs: float = Field(default=5, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    l2_decay: float = Field(default=1e-4, ge=0)
    eval_every: int = Field(default=10, gt=0)  # epochs between validations; the last has one


class LabelTraining(TrainConfig):
    """Training on labels: the teacher and the baseline."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()


class DistillTraining(TrainConfig):
    """Training on the teacher's outputs, labels unused: distill and finetune."""

    loss: Literal["ssld", "js", "kl"] = "ssld"
    teacher_batch_norm: Literal["batch", "running"] = "batch"  # published: batch statistics
    augmentation: Augmentation = Augmentation()


class FixTraining(TrainConfig):
    """FixRes: the classifier alone, on labels, at a larger resolution, unaugmented."""
