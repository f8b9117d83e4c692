"""Optimizers and regularizers: configurations, made into Paddle's own optimizers.

A network may give single parameters a learning-rate factor (`lr_mult_list`), and a regularizer in
place of the training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from data_catalog.base.config import Config

if TYPE_CHECKING:
    import paddle


class Regularizer(Config):
    """L1 adds factor * sign(w) to the gradient, L2 factor * w."""

    name: Literal["L1", "L2"] = "L2"  # which norm
    factor: float = Field(default=1e-4, ge=0)  # how strong


class Momentum(Config):
    """v = momentum v + g; w = w - lr v."""

    name: Literal["Momentum"] = "Momentum"
    momentum: float = Field(default=0.9, ge=0, lt=1)  # share of the last step that is kept


class RMSProp(Config):
    """s = rho s + (1 - rho) g^2; v = momentum v + lr g / sqrt(s + epsilon); w = w - v."""

    name: Literal["RMSProp"] = "RMSProp"
    rho: float = Field(default=0.9, ge=0, lt=1)  # decay of the mean of squares
    epsilon: float = Field(default=1e-3, gt=0)  # keeps the divisor from 0
    momentum: float = Field(default=0.9, ge=0, lt=1)  # share of the last step that is kept


class Adam(Config):
    """Kingma and Ba 2014; the regularizer acts through the gradient, unlike AdamW's."""

    name: Literal["Adam"] = "Adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)  # decay of the mean gradient
    beta2: float = Field(default=0.999, ge=0, lt=1)  # decay of the mean square
    epsilon: float = Field(default=1e-8, gt=0)  # keeps the divisor from 0


Optimizer = Annotated[Momentum | RMSProp | Adam, Field(discriminator="name")]


def make_optimizer(
    config: Momentum | RMSProp | Adam,
    parameters: Sequence[paddle.Tensor],
    regularizer: Regularizer,
    clip_norm: float | None,
) -> paddle.optimizer.Optimizer:
    """Paddle's optimizer of `config`, its state already allocated.

    `regularizer` is for the parameters that have none of their own. Gradients are clipped, all
    together to the 2-norm `clip_norm`, before they are regularized. Every step has to set the
    learning rate first.
    """
    import paddle
    from paddle.utils import unique_name

    decay = getattr(paddle.regularizer, f"{regularizer.name}Decay")
    optimizer = getattr(paddle.optimizer, config.name)(
        1.0,
        parameters=list(parameters),
        weight_decay=decay(regularizer.factor) if regularizer.factor else None,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(clip_norm) if clip_norm else None,
        **config.model_dump(exclude={"name"}),  # whose fields are called as Paddle's arguments
    )
    # Now, not at the first step, and counted from 0: what a checkpoint must hold is known at once,
    # and its names are the same in every process, however many optimizers there were.
    with unique_name.guard():
        block = paddle.static.default_main_program().global_block()
        optimizer._create_accumulators(block, optimizer._parameter_list)
    return optimizer
