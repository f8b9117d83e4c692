"""The one training loop: every stage that trains is an objective and settings for it.

Randomness is keyed by (seed, epoch, image id) and (seed, step), so a training that was killed and
resumed from its checkpoint gives the same bits as one that was not.

A step waits for nothing: what it needs goes to the device in one transfer (device.py), and its loss
is read when the next step is under way. So the host is a step ahead of a GPU. Before anything is
kept (a row, a checkpoint) what was not read yet is read, and a loss that is not finite ends the
training then.

P processes (distributed.py) do what one does with P times the `accumulate`: each computes its part
of the batch, then all take the step of the mean gradient. For two the weights have the same bits,
for more they are equal within rounding, as the order of a sum differs.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.data.batch import Batch
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.lost import MAX_LOST, check_lost, counts_of, rejected_counts
from ppcls_core.engine import checkpoint
from ppcls_core.engine.averages import Average, RunningStatistics
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.device import DeviceBatch, Download, Uploaded, to_device
from ppcls_core.engine.distributed import Ahead, world
from ppcls_core.engine.evaluator import TOPK
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.optimizers import make_optimizer
from ppcls_core.engine.schedules import Length
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, Monitor
from ppcls_core.runtime.randomness import seed_of

BEST = "best.pdparams"
MAX_OVERFLOWS = 10  # of an epoch's steps in fp16 whose loss is not finite; more are no accident
NUM_FIGURES, NUM_FLAGS = 3, 3  # loss, top-1 and top-k hits; batch missing, save due, shall stop
Row = dict[str, float]
"""An epoch of a history: epoch, loss, lr; `top1` where it was validated; "rejected: REASON", number
of training images that could not be read so far; `overflows`, number of steps that fp16 left out,
as their loss was not finite (`loss` is the mean of the others)."""
Validate = Callable[[paddle.nn.Layer], Row]
"""The model as it stands to the figures that validation adds to the row, among them `top1`."""


@dataclass(frozen=True)
class StepReport:
    """A step that was done. The accuracies are of its batch, where unlabelled images count 0."""

    step: int
    loss: float
    lr: float
    top1: float
    topk: float


@dataclass(frozen=True)
class _Launched:
    """A step whose figures have not been read: float64 `sums` over the parts of the batch; in a
    world of several processes the flags behind them."""

    step: int
    lr: float
    sums: Download
    batch: Uploaded  # kept until the device has read it


@dataclass(frozen=True)
class Training:
    """A model, and the images and objective that its parameters without `stop_gradient` learn from.

    It fails when more than the share `max_lost` of the images cannot be read.
    """

    model: paddle.nn.Layer
    objective: Objective
    loader: TrainLoader
    validate: Validate
    on_step: Callable[[StepReport], None] | None = None
    on_epoch: Callable[[int], None] | None = None  # after each, before its checkpoint; from 0
    max_lost: float = MAX_LOST
    topk: int = TOPK  # of a StepReport


class Trainer(checkpoint.State):
    """A training with all that changes in it: model, optimizer, loss scaler, average, position.

    Checkpoints, `save_seconds` apart, and BEST lie in the directory. In a world of several
    processes each has a trainer, and they call the same methods alike; the first one writes the
    files. Raises UserError: the precision is not for this machine, or the processes cannot share a
    batch.
    """

    def __init__(
        self,
        training: Training,
        config: TrainConfig,
        directory: Path,
        save_seconds: float,
        monitor: Monitor,
    ) -> None:
        config.precision.check()
        if training.loader.batch_size % (parts := world().size * config.accumulate):
            raise UserError(
                f"`batch_size`: {counted(training.loader.batch_size, 'image')} cannot be shared "
                f"equally by {counted(world().size, 'process')} (with `accumulate` "
                f"{config.accumulate}): take a multiple of {parts}"
            )
        self._learning = [p for p in training.model.parameters() if not p.stop_gradient]
        optimizer = make_optimizer(
            config.optimizer, self._learning, config.regularizer, config.clip_norm
        )
        average = Average(training.model, config.ema_decay) if config.ema_decay else None
        super().__init__(training.model, optimizer, config.precision.scaler(), average)
        self.training, self.config = training, config
        self.directory, self.monitor = directory, monitor
        self._save_seconds, self._saved = save_seconds, time.monotonic()
        self._length = Length(config.epochs, training.loader.steps_per_epoch)
        self._parts = parts  # of a batch, over all processes
        self._launched: _Launched | None = None
        self._told = np.zeros(NUM_FLAGS, bool)  # by any of several processes, and not yet done
        self._error = ""  # why this process has no further batch

    def fit(self) -> list[Row]:
        """Train to the end, from the checkpoint in the directory if any; the history.

        The model ends with the last weights (their average under `ema_decay`); those of the highest
        validation top-1, the earliest of equals, are BEST in the directory. Raises Interrupted: a
        stop was requested; a checkpoint has been written; UserError: loss or weights are not
        finite, the checkpoints are damaged, or too few images can be read.
        """
        checkpoint.restore(self.directory, self, self.monitor)
        if self.position.step:
            self.monitor.note(f"resumes at step {self.position.step:,} of {self._length.steps:,}")
        with world().together():
            batches = self.remaining_batches()
        try:
            while (closed := len(self.position.history)) < self.config.epochs:
                if self.position.step == self._length.steps_per_epoch * (closed + 1):
                    self._close_epoch()
                else:
                    self.step(batches)
                    self.monitor.progress(self.position.step, self._length.steps, "steps")
                    self._save_or_stop()
        except Interrupted:  # between steps, or out of a validation, which is then made again
            self._save()
            raise
        if self.average is not None:
            self.average.enter_model()
        return self.position.history

    def remaining_batches(self) -> Ahead[Batch]:
        """This process's part of the batch of each step from the position to the end."""
        epoch = len(self.position.history)
        first = self.position.step - epoch * self._length.steps_per_epoch
        part = (world().rank, world().size)
        batches = self.training.loader.batches(epoch, first, self.config.epochs - epoch, part)
        return Ahead(batches, 2 if world().size > 1 else 0)

    def step(self, batches: Ahead[Batch]) -> None:
        """One update, by the next batch, and the report of the step before.

        Raises UserError: the loss of that one is not finite, or a batch cannot be loaded.
        """
        launched = self._launch(batches)
        self.position.step += 1
        self.settle()
        self._launched = launched

    def settle(self) -> None:
        """Wait for the last step, and report it. Raises UserError: its loss is not finite, or a
        batch cannot be loaded."""
        if self._launched is not None:
            launched, self._launched = self._launched, None
            self._read(launched)

    def _launch(self, batches: Ahead[Batch]) -> _Launched:
        """Have the device take a step; its figures, unread."""
        lr, batch = self._lr(self.position.step), next(batches)
        self._error = batches.error
        # As the batch is used, not as it is loaded ahead: what a checkpoint holds must not vary.
        self.position.rejected.update(batch.lost)
        upload, is_scaled = to_device(batch, self.config.accumulate), self.scaler.is_enable()
        statistics = RunningStatistics(self.model, self._parts > 1 or is_scaled)
        found = statistics.read()
        sums = self._backward(upload.parts, statistics)
        if world().size > 1:  # one exchange for all figures of a step
            flags = paddle.to_tensor([bool(self._error), *self._wishes()], "float64")
            sums = paddle.concat([sums[:NUM_FIGURES], flags, sums[NUM_FIGURES:]])
            world().add(sums)
        world().average_gradients(self._learning)
        kept = sums.shape[0] - found.shape[0]
        means = sums[kept:] / self._parts
        if is_scaled:  # an overflow of the forward pass, whose step the scaler leaves out
            means = paddle.where(means.isfinite(), means, found)
        statistics.write(means)
        self.optimizer.set_lr(lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Gradients go, not to zero: a parameter that gets none must not move, resumed or not.
        self.optimizer.clear_grad(set_to_zero=False)
        if self.average is not None:
            self.average.update(self.position.step)
        return _Launched(self.position.step, lr, Download(sums[:kept]), upload)

    def _backward(
        self, parts: tuple[DeviceBatch, ...], statistics: RunningStatistics
    ) -> paddle.Tensor:
        """Leave the gradient of the mean loss over the parts of this process's batch.

        Gives loss, top-1 hits, top-k hits and the running statistics, each summed over the parts:
        float64 on the device.
        """
        found, sums = statistics.read(), None
        first = world().rank * len(parts)
        seed = seed_of(self.training.loader.seed, self.position.step, "dropout")
        for number, part in enumerate(parts):
            paddle.seed(seed + first + number)  # by part, whichever process has it
            if number:
                statistics.write(found)  # each part moves them from where the step began
            with self.config.precision.autocast():
                loss, logits = self.training.objective(self.model, part)
            self.scaler.scale(loss / len(parts)).backward()
            with paddle.no_grad():
                own = loss.reshape([1]).astype("float64")
                found_here = paddle.concat(
                    [own, hits(logits, part.labels, self.training.topk), statistics.read()]
                )
                sums = found_here if sums is None else sums + found_here
        assert sums is not None, "a batch has a part at least"
        return sums

    def _read(self, launched: _Launched) -> None:
        """Take note of a step's figures, once the device has them."""
        values = world().read(launched.sums.read)
        if world().size > 1:
            self._told |= values[NUM_FIGURES:] > 0
            if self._told[0]:
                raise UserError(next(filter(None, world().gather(self._error))))
        loss = float(values[0]) / self._parts
        if math.isfinite(loss):
            self.position.loss_sum += loss
        elif self._may_overflow():
            self.position.overflows += 1
        else:
            raise UserError(
                f"the loss is {loss} at step {launched.step}, the rate {launched.lr:g}: "
                f"{checkpoint.REMEDY}"
            )
        if self.training.on_step is not None:
            top1, topk = (values[1:NUM_FIGURES] / self.training.loader.batch_size).tolist()
            self.training.on_step(StepReport(launched.step, loss, launched.lr, top1, topk))

    def _may_overflow(self) -> bool:
        """Whether the loss of one more step of the epoch may be not finite: in fp16 alone, where
        the scaler leaves that step out."""
        most = min(MAX_OVERFLOWS, self._length.steps_per_epoch - 1)
        return self.scaler.is_enable() and self.position.overflows < most

    def _close_epoch(self) -> None:
        """Add the finished epoch's row to the history, with top-1 where it is due."""
        self.settle()
        checkpoint.require_finite(self)
        epoch = len(self.position.history) + 1
        self.position.rejected = world().union(self.position.rejected)
        rejected = counts_of(self.position.rejected)
        check_lost("training", rejected, len(self.training.loader.images), self.training.max_lost)
        overflows = self.position.overflows
        row = {
            "epoch": epoch,
            "loss": self.position.loss_sum / (self._length.steps_per_epoch - overflows),
            "lr": self._lr(self.position.step - 1),
            **({"overflows": overflows} if overflows else {}),
            **rejected_counts(rejected),
        }
        every = self.config.eval_every
        if every and (epoch % every == 0 or epoch == self.config.epochs):
            with self.average.in_model() if self.average else nullcontext():
                row |= self.training.validate(self.model)
                best = max((old.get("top1", -1.0) for old in self.position.history), default=-1.0)
                if row["top1"] > best and world().is_first:  # the earliest of equals stays
                    save_state(self.directory / BEST, state_of(self.model))
        self.position.history.append(row)
        self.position.loss_sum, self.position.overflows = 0.0, 0
        if self.training.on_epoch is not None:
            self.training.on_epoch(epoch - 1)
        self.monitor.metrics(row)

    def _wishes(self) -> tuple[bool, bool]:
        """Whether this process is to save a checkpoint, and whether it is to stop."""
        is_due = time.monotonic() - self._saved > self._save_seconds
        return is_due, self.monitor.stop_requested

    def _save_or_stop(self) -> None:
        """Save the checkpoint if it is due in some process; raise Interrupted if one shall stop.

        Of several processes each tells its wish in a step, and all heed it after the next one.
        """
        alone = world().size == 1
        must_save, must_stop = self._wishes() if alone else self._told[1:].tolist()
        if must_save:
            self._save()
            self._saved, self._told[1] = time.monotonic(), False
        if must_stop:
            raise Interrupted

    def _save(self) -> None:
        self.settle()
        self.position.rejected = world().union(self.position.rejected)
        checkpoint.save(self.directory, self)

    def _lr(self, step: int) -> float:
        return self.config.schedule(step, self.config.lr, self._length)


def hits(logits: paddle.Tensor, labels: paddle.Tensor, topk: int = TOPK) -> paddle.Tensor:
    """float64 [2] on the device: how many images of known label (int64 [N], else -1) have it as the
    highest, and among the `topk` highest, of their logits float32 [N, C]; as `count_hits`."""
    target = paddle.take_along_axis(logits, labels.clip(min=0).unsqueeze(1), 1)
    rank = (logits < target).logical_not().sum(1) - 1
    known = labels >= 0
    return paddle.stack([(known & (rank < k)).sum() for k in (1, topk)]).astype("float64")
