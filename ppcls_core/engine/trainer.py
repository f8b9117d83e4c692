"""The one training loop: every stage that trains is an objective and settings for it.

Randomness is keyed by (seed, epoch, image id) and (seed, step), so a training that was killed and
resumed from its checkpoint gives the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import paddle
from paddle.utils import unique_name

from data_catalog.config import UserError
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import normalize
from ppcls_core.engine import checkpoint
from ppcls_core.engine.checkpoint import Position
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.schedules import cosine_warmup
from ppcls_core.monitor import Interrupted, Monitor, check
from ppcls_core.randomness import seed_of

Validate = Callable[[paddle.nn.Layer], float]  # top-1 of the model as it stands


@dataclass(frozen=True)
class Training:
    """What is trained, on what, towards what; `parameters` are those that learn."""

    model: paddle.nn.Layer
    parameters: Sequence[paddle.Tensor]
    objective: Objective
    loader: TrainLoader
    validate: Validate


def fit(
    training: Training, config: TrainConfig, directory: Path, save_seconds: float, monitor: Monitor
) -> list[dict[str, float]]:
    """Train to the end, from the checkpoint in `directory` if any; the history, a row an epoch.

    Raises:
        Interrupted: a stop was requested; a checkpoint has been written.
        UserError: the loss is not finite, or the checkpoint is damaged.
    """
    optimizer = _optimizer(training.parameters, config)
    at = checkpoint.restore(directory, training.model, optimizer)
    training.loader.rejected.reasons = at.rejected
    total, saved = training.loader.steps_per_epoch * config.epochs, time.monotonic()
    if at.step:
        monitor.note(f"resumes at step {at.step:,} of {total:,}")
    try:
        for _ in _steps(training, config, optimizer, at, monitor):
            monitor.progress(at.step, total, "steps")
            if time.monotonic() - saved > save_seconds:
                checkpoint.save(directory, training.model, optimizer, at)
                saved = time.monotonic()
            check(monitor)
    except Interrupted:  # between steps, or out of a validation, which is then made again
        checkpoint.save(directory, training.model, optimizer, at)
        raise
    return at.history


def _steps(
    training: Training,
    config: TrainConfig,
    optimizer: paddle.optimizer.Momentum,
    at: Position,
    monitor: Monitor,
) -> Iterator[None]:
    """Train from `at`, which moves along, to the end; yields after each step."""
    per_epoch, begun = training.loader.steps_per_epoch, len(at.history)
    first = at.step - begun * per_epoch
    batches = training.loader.batches(begun, first, config.epochs - begun)
    for epoch in range(begun, config.epochs):
        for batch in islice(batches, (epoch + 1) * per_epoch - at.step):
            lr = _lr(at.step, per_epoch, config)
            at.loss_sum += _step(training, optimizer, batch, lr, at.step)
            at.step += 1
            yield
        at.history.append(_epoch_row(training, config, at))
        at.loss_sum = 0.0
        monitor.metrics(at.history[-1])


def _optimizer(
    parameters: Sequence[paddle.Tensor], config: TrainConfig
) -> paddle.optimizer.Momentum:
    decay = paddle.regularizer.L2Decay(config.l2_decay) if config.l2_decay else None
    return paddle.optimizer.Momentum(
        config.lr, config.momentum, parameters=list(parameters), weight_decay=decay
    )


def _step(
    training: Training, optimizer: paddle.optimizer.Momentum, batch: tuple, lr: float, step: int
) -> float:
    """One update; the loss before it."""
    pixels, labels = batch
    paddle.seed(seed_of(training.loader.seed, step, "dropout"))
    loss = training.objective(training.model, normalize(pixels), paddle.to_tensor(labels))
    value = float(loss)
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} at step {step}: lower lr (now {lr:g}) or lengthen warmup_epochs"
        )
    loss.backward()
    optimizer.set_lr(lr)
    with unique_name.guard():  # the names that `checkpoint.restore` expects, in every process
        optimizer.step()
    optimizer.clear_grad()
    return value


def _lr(step: int, per_epoch: int, config: TrainConfig) -> float:
    return cosine_warmup(step, per_epoch, config.epochs, config.warmup_epochs, config.lr)


def _epoch_row(training: Training, config: TrainConfig, at: Position) -> dict[str, float]:
    """The history's row of the epoch that `at` has finished: loss, last lr, top-1 if it is due."""
    per_epoch = training.loader.steps_per_epoch
    epoch = at.step // per_epoch
    row = {
        "epoch": epoch,
        "loss": at.loss_sum / per_epoch,
        "lr": _lr(at.step - 1, per_epoch, config),
    }
    if epoch % config.eval_every == 0 or epoch == config.epochs:
        row["top1"] = training.validate(training.model)
    return row
