"""Augmentation: operators, each its own settings and a pure function of its arguments.

An operator is called with (image uint8 RGB [H, W, 3], generator, progress in [0, 1]: the share of
the training done) and gives a uint8 RGB [H', W', 3]. It never writes to the image, and may return
it or a view of it. Equal arguments give equal bytes, and the number of values drawn from the
generator depends on the settings alone. Pictures of all of them: `gallery.py`.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

from ppcls_core.data.augment.crop import CenterCrop, RandomCrop, RandomFlip, Resize
from ppcls_core.data.augment.masks import Cutout, GridMask, HideAndSeek, RandomErasing
from ppcls_core.data.augment.mix import CutMix, FMix, Mixup
from ppcls_core.data.augment.policies import AutoAugment, RandAugment

VERSION = 1
"""Raised when equal arguments give other pixels: stored labels of augmented views are then void."""

Operator = Annotated[
    RandomCrop
    | RandomFlip
    | Resize
    | CenterCrop
    | AutoAugment
    | RandAugment
    | Cutout
    | RandomErasing
    | HideAndSeek
    | GridMask,
    Field(discriminator="name"),
]
BatchOperator = Annotated[Mixup | CutMix | FMix, Field(discriminator="name")]


def apply(
    operators: Iterable[Operator], image: np.ndarray, rng: np.random.Generator, progress: float
) -> np.ndarray:
    """`image` after each of `operators` in turn, all drawing from `rng`."""
    for operator in operators:
        image = operator(image, rng, progress)
    return image


def sized(operators: Iterable[Operator], size: int) -> tuple[Operator, ...]:
    """`operators`, a random crop without a size giving images of `size` x `size` pixels."""
    return tuple(
        operator.model_copy(update={"size": size})
        if isinstance(operator, RandomCrop) and operator.size is None
        else operator
        for operator in operators
    )
