"""Learning-rate schedules: configurations that are called as closed formulas of the step.

A schedule gives the rate of the update `step` for a base rate of `lr`, in a training of `length`.
Nothing is counted or kept, so a training goes on from any step. The names are PaddleClas's.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from data_catalog.base.config import Config


@dataclass(frozen=True)
class Length:
    """How long a training is; steps count from 0 over all epochs."""

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.epochs * self.steps_per_epoch


class Linear(Config):
    """In a straight line from the base rate to `end_lr` at `steps`, and that from then on."""

    name: Literal["Linear"] = "Linear"
    steps: int | None = Field(default=None, gt=0)  # None: the whole training
    end_lr: float = Field(default=0.0, ge=0)  # the rate at the end

    def __call__(self, step: int, lr: float, length: Length) -> float:
        end = self.steps or length.steps
        return (lr - self.end_lr) * (1 - min(step, end) / end) + self.end_lr


class Cosine(Config):
    """Half a cosine from the base rate down to 0, one stair an epoch."""

    name: Literal["Cosine"] = "Cosine"

    def __call__(self, step: int, lr: float, length: Length) -> float:
        return _cosine(lr, step // length.steps_per_epoch / length.epochs)


class Piecewise(Config):
    """The base rate, multiplied by `gamma` at the start of each of `decay_epochs` (from 0)."""

    name: Literal["Piecewise"] = "Piecewise"
    decay_epochs: tuple[int, ...] = (30, 60, 90)  # at whose start it falls, from 0
    gamma: float = Field(default=0.1, gt=0)  # the factor

    @field_validator("decay_epochs")
    @classmethod
    def _rise(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError("must rise from one epoch to the next")
        return epochs

    def __call__(self, step: int, lr: float, length: Length) -> float:
        epoch = step // length.steps_per_epoch
        return lr * self.gamma ** sum(epoch >= start for start in self.decay_epochs)


class CosineWarmup(Config):
    """Linear to the base rate over the warm-up, then half a cosine down to 0, step by step.

    A warm-up longer than the training is shortened to it.
    """

    name: Literal["CosineWarmup"] = "CosineWarmup"
    warmup_epochs: float = Field(default=5.0, ge=0)  # epochs in which it rises from 0

    def __call__(self, step: int, lr: float, length: Length) -> float:
        warmup = min(self.warmup_epochs, length.epochs) * length.steps_per_epoch
        if step < warmup:
            return lr * step / warmup
        return _cosine(lr, (step - warmup) / (length.steps - warmup))


class ExponentialWarmup(Config):
    """Linear to the base rate over the warm-up, then times 0.97 after every 2.4 epochs.

    The schedule of MnasNet and EfficientNet (Tan et al. 2018, Tan and Le 2019).
    """

    name: Literal["ExponentialWarmup"] = "ExponentialWarmup"
    warmup_epochs: float = Field(default=5.0, ge=0)  # epochs in which it rises from 0

    def __call__(self, step: int, lr: float, length: Length) -> float:
        warmup = self.warmup_epochs * length.steps_per_epoch
        if step < warmup:
            return lr * step / warmup
        # 12 / 5, because a multiple of 2.4 in floating point can fall short of a stair's border.
        return lr * 0.97 ** (5 * (step - warmup) // (12 * length.steps_per_epoch))


Schedule = Annotated[
    CosineWarmup | Cosine | Linear | Piecewise | ExponentialWarmup, Field(discriminator="name")
]


def _cosine(lr: float, part: float) -> float:
    """`lr` at `part` 0, down to 0 at 1."""
    return lr / 2 * (1 + math.cos(math.pi * part))
