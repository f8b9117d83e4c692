"""Learning-rate schedules: configurations whose `rate` is a closed formula of the step.

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

    def steps(self, epochs: float) -> float:
        """`epochs` of this training, in steps."""
        return epochs * self.steps_per_epoch


class Linear(Config):
    """In a straight line from the base rate to `end_lr` at `steps`, and that from then on."""

    name: Literal["Linear"] = "Linear"
    steps: int | None = Field(default=None, gt=0)  # None: the whole training
    end_lr: float = Field(default=0.0, ge=0)

    def rate(self, step: int, lr: float, length: Length) -> float:
        """The rate of the update `step`, for a base rate of `lr`."""
        end = self.steps or length.steps(length.epochs)
        return (lr - self.end_lr) * (1 - min(step, end) / end) + self.end_lr


class Cosine(Config):
    """Half a cosine from the base rate down to 0, one stair an epoch."""

    name: Literal["Cosine"] = "Cosine"

    def rate(self, step: int, lr: float, length: Length) -> float:
        """The rate of the update `step`, for a base rate of `lr`."""
        return _cosine(lr, step // length.steps_per_epoch / length.epochs)


class Piecewise(Config):
    """The base rate, multiplied by `gamma` at the start of each of `decay_epochs` (from 0)."""

    name: Literal["Piecewise"] = "Piecewise"
    decay_epochs: tuple[int, ...] = (30, 60, 90)
    gamma: float = Field(default=0.1, gt=0)

    @field_validator("decay_epochs")
    @classmethod
    def _rise(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError("must rise from one epoch to the next")
        return epochs

    def rate(self, step: int, lr: float, length: Length) -> float:
        """The rate of the update `step`, for a base rate of `lr`."""
        epoch = step // length.steps_per_epoch
        return lr * self.gamma ** sum(epoch >= start for start in self.decay_epochs)


class CosineWarmup(Config):
    """Linear to the base rate over the warm-up, then half a cosine down to 0, step by step.

    A warm-up longer than the training is shortened to it.
    """

    name: Literal["CosineWarmup"] = "CosineWarmup"
    warmup_epochs: float = Field(default=5.0, ge=0)

    def rate(self, step: int, lr: float, length: Length) -> float:
        """The rate of the update `step`, for a base rate of `lr`."""
        warmup = length.steps(min(self.warmup_epochs, length.epochs))
        if step < warmup:
            return lr * step / warmup
        return _cosine(lr, (step - warmup) / (length.steps(length.epochs) - warmup))


class ExponentialWarmup(Config):
    """Linear to the base rate over the warm-up, then times 0.97 after every 2.4 epochs.

    The schedule of MnasNet and EfficientNet (Tan et al. 2018, Tan and Le 2019).
    """

    name: Literal["ExponentialWarmup"] = "ExponentialWarmup"
    warmup_epochs: float = Field(default=5.0, ge=0)

    def rate(self, step: int, lr: float, length: Length) -> float:
        """The rate of the update `step`, for a base rate of `lr`."""
        warmup = length.steps(self.warmup_epochs)
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
