"""The one training loop: every stage that trains is an objective and settings for it.

Randomness is keyed by (seed, epoch, image id) and (seed, step), so a training that was killed and
resumed from its checkpoint gives the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import paddle

from data_catalog.config import UserError
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import normalize
from ppcls_core.engine import checkpoint
from ppcls_core.engine.checkpoint import Position
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.schedules import cosine_warmup
from ppcls_core.monitor import Interrupted, Monitor
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
        UserError: the loss is not finite.
    """
    model, loader = training.model, training.loader
    optimizer = _optimizer(training.parameters, config)
    at = checkpoint.restore(directory, model, optimizer)
    per_epoch = loader.steps_per_epoch
    total, saved = per_epoch * config.epochs, time.monotonic()
    if at.step:
        monitor.note(f"resumes at step {at.step:,} of {total:,}")
    while at.step < total:
        epoch, first = divmod(at.step, per_epoch)
        for pixels, labels in loader.batches(epoch, first):
            lr = cosine_warmup(at.step, per_epoch, config.epochs, config.warmup_epochs, config.lr)
            at.loss_sum += _step(training, optimizer, (pixels, labels), lr, at.step)
            at.step += 1
            monitor.progress(at.step, total, "steps")
            if at.step % per_epoch == 0:
                _close_epoch(training, config, at, monitor)
            if monitor.stop_requested or time.monotonic() - saved > save_seconds:
                checkpoint.save(directory, model, optimizer, at)
                saved = time.monotonic()
            if monitor.stop_requested:
                raise Interrupted
    return at.history


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
    if value != value or value == float("inf"):
        raise UserError(
            f"the loss is {value} at step {step}: lower lr (now {lr:g}) or lengthen warmup_epochs"
        )
    loss.backward()
    optimizer.set_lr(lr)
    optimizer.step()
    optimizer.clear_grad()
    return value


def _close_epoch(training: Training, config: TrainConfig, at: Position, monitor: Monitor) -> None:
    per_epoch = training.loader.steps_per_epoch
    epoch = at.step // per_epoch
    row = {"epoch": epoch, "loss": at.loss_sum / per_epoch}
    row["lr"] = cosine_warmup(
        at.step - 1, per_epoch, config.epochs, config.warmup_epochs, config.lr
    )
    if epoch % config.eval_every == 0 or epoch == config.epochs:
        row["top1"] = training.validate(training.model)
    at.history.append(row)
    at.loss_sum = 0.0
    monitor.metrics(row)
