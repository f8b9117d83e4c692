"""The one training loop: every stage that trains is an objective and settings for it.

Randomness is keyed by (seed, epoch, image id) and (seed, step), so a training that was killed and
resumed from its checkpoint gives the same bits as one that was not.

P processes (distributed.py) do what one does with P times the `accumulate`: each computes its part
of the batch, then all take the step of the mean gradient. For two the weights have the same bits,
for more they are equal within rounding, as the order of a sum differs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import UserError
from ppcls_core.data.batch import Batch
from ppcls_core.data.loader import TrainLoader
from ppcls_core.engine import checkpoint
from ppcls_core.engine.checkpoint import State
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.distributed import world
from ppcls_core.engine.ema import Average
from ppcls_core.engine.evaluator import count_hits
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.optimizers import make_optimizer
from ppcls_core.engine.schedules import Length
from ppcls_core.engine.statistics import RunningStatistics
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, Monitor
from ppcls_core.runtime.randomness import seed_of

BEST = "best.pdparams"
Validate = Callable[[paddle.nn.Layer], float]  # top-1 of the model as it stands


@dataclass(frozen=True)
class StepReport:
    """A step that was done. The accuracies are of its batch, where unlabelled images count 0."""

    step: int
    loss: float
    lr: float
    top1: float
    top5: float


@dataclass(frozen=True)
class Training:
    """What is trained, on what, towards what; `parameters` are those that learn."""

    model: paddle.nn.Layer
    parameters: Sequence[paddle.Tensor]
    objective: Objective
    loader: TrainLoader
    validate: Validate
    on_step: Callable[[StepReport], None] | None = None
    on_epoch: Callable[[int], None] | None = None
    """Called after each epoch, before its checkpoint, with its number from 0."""


def fit(
    training: Training, config: TrainConfig, directory: Path, save_seconds: float, monitor: Monitor
) -> list[dict[str, float]]:
    """Train to the end, from the checkpoint in `directory` if any; the history, a row an epoch.

    The model ends with the last weights (their average under `ema_decay`); those of the highest
    validation top-1, the earliest of equals, are `BEST` in `directory`. In a world of several
    processes all call this alike; the first one writes the files.

    Raises:
        Interrupted: a stop was requested; a checkpoint has been written.
        UserError: loss or weights are not finite, the checkpoints are damaged, the precision is
            not for this machine, or the batch cannot be shared by the processes.
    """
    state = _start(training, config)
    checkpoint.restore(directory, state, monitor)
    at, per_epoch = state.at, training.loader.steps_per_epoch
    training.loader.rejected.reasons = at.rejected
    total, saved, begun = per_epoch * config.epochs, time.monotonic(), len(at.history)
    if at.step:
        monitor.note(f"resumes at step {at.step:,} of {total:,}")
    batches = training.loader.batches(begun, at.step - begun * per_epoch, config.epochs - begun)
    try:
        while len(at.history) < config.epochs:
            if at.step == per_epoch * (len(at.history) + 1):
                _close_epoch(training, config, state, directory)
                if training.on_epoch is not None:
                    training.on_epoch(len(at.history) - 1)
                monitor.metrics(at.history[-1])
                continue
            _step(training, config, state, batches)
            monitor.progress(at.step, total, "steps")
            is_due = time.monotonic() - saved > save_seconds
            must_save, must_stop = world().any(is_due, monitor.stop_requested)
            if must_save:
                _save(training, state, directory)
                saved = time.monotonic()
            if must_stop:
                raise Interrupted
    except Interrupted:  # between steps, or out of a validation, which is then made again
        _save(training, state, directory)
        raise
    if state.average is not None:
        state.average.enter_model()
    training.loader.rejected.reasons = world().union(training.loader.rejected.reasons)
    return at.history


def _start(training: Training, config: TrainConfig) -> State:
    config.precision.check()
    _take_part(training.loader, config)
    optimizer = make_optimizer(
        config.optimizer, training.parameters, config.regularizer, config.clip_norm
    )
    average = Average(training.model, config.ema_decay) if config.ema_decay else None
    return State(training.model, optimizer, config.precision.scaler(), average)


def _save(training: Training, state: State, directory: Path) -> None:
    state.at.rejected = world().union(training.loader.rejected.reasons)
    checkpoint.save(directory, state)


def _take_part(loader: TrainLoader, config: TrainConfig) -> None:
    processes, parts = world().size, world().size * config.accumulate
    if loader.batch_size % parts:
        raise UserError(
            f"batch_size: {loader.batch_size} images cannot be shared equally by {processes} "
            f"processes with accumulate {config.accumulate}: take a multiple of {parts}"
        )
    loader.part = (world().rank, processes)


def _step(training: Training, config: TrainConfig, state: State, batches: Iterator[Batch]) -> None:
    """One update, by the next batch."""
    at, lr, parts = state.at, _lr(training, config, state.at.step), config.accumulate * world().size
    statistics = RunningStatistics(training.model, parts)
    with world().together():
        sums = _backward(training, config, state, next(batches), statistics)
    loss, *hits = (sums := world().sum(sums))[:3]
    loss = float(loss) / parts
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {at.step}: lower lr (now {lr:g}), lengthen the warm-up "
            "or set clip_norm; the checkpoint before it is kept"
        )
    world().average_gradients(training.parameters)
    statistics.write(sums[3:] / parts)
    state.optimizer.set_lr(lr)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    # Gradients go, not to zero: a parameter that gets none must not move, resumed or not.
    state.optimizer.clear_grad(set_to_zero=False)
    if state.average is not None:
        state.average.update(at.step)
    if training.on_step is not None:
        top1, top5 = (float(number) / training.loader.batch_size for number in hits)
        training.on_step(StepReport(at.step, loss, lr, top1, top5))
    at.loss_sum += loss
    at.step += 1


def _backward(
    training: Training,
    config: TrainConfig,
    state: State,
    batch: Batch,
    statistics: RunningStatistics,
) -> np.ndarray:
    """Leave the gradient of the mean loss over the parts of this process's `batch`.

    Returns:
        loss, top-1 hits, top-5 hits and the running statistics, each summed over the parts.
    """
    found = statistics.read()
    sums = np.zeros(3 + len(found))
    seed = seed_of(training.loader.seed, state.at.step, "dropout")
    for number, part in enumerate(batch.split(config.accumulate)):
        paddle.seed(seed + world().rank * config.accumulate + number)
        if number:
            statistics.write(found)
        with config.precision.autocast():
            loss, logits = training.objective(training.model, part)
        state.scaler.scale(loss / config.accumulate).backward()
        known = part.labels >= 0
        hits = count_hits(logits.numpy()[known], part.labels[known])[1:].sum(1)
        sums += np.concatenate([[float(loss)], hits, statistics.read()])
    return sums


def _close_epoch(training: Training, config: TrainConfig, state: State, directory: Path) -> None:
    """Add the history's row of the finished epoch: loss, last lr, and top-1 if it is due."""
    checkpoint.require_finite(state)
    at, per_epoch = state.at, training.loader.steps_per_epoch
    epoch = len(at.history) + 1
    lr = _lr(training, config, at.step - 1)
    row = {"epoch": epoch, "loss": at.loss_sum / per_epoch, "lr": lr}
    if epoch % config.eval_every == 0 or epoch == config.epochs:
        with state.average.in_model() if state.average else nullcontext():
            row["top1"] = training.validate(training.model)
            best = max((old.get("top1", -1.0) for old in at.history), default=-1.0)
            if row["top1"] > best and world().is_first:
                save_state(directory / BEST, state_of(training.model))
    at.history.append(row)
    at.loss_sum = 0.0


def _lr(training: Training, config: TrainConfig, step: int) -> float:
    length = Length(config.epochs, training.loader.steps_per_epoch)
    return config.schedule.rate(step, config.lr, length)
