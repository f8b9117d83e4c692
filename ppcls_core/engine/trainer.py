"""The one training loop: every stage that trains is an objective and settings for it.

Randomness is keyed by (seed, epoch, image id) and (seed, step), so a training that was killed and
resumed from its checkpoint gives the same bits as one that was not.

P processes (distributed.py) do what one does with P times the `accumulate`: each computes its part
of the batch, then all take the step of the mean gradient. For two the weights have the same bits,
for more they are equal within rounding, as the order of a sum differs.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import UserError
from ppcls_core.data.batch import Batch
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.lost import MAX_LOST, REJECTED, check_lost, counts_of
from ppcls_core.engine import checkpoint
from ppcls_core.engine.averages import Average, RunningStatistics
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.distributed import world
from ppcls_core.engine.evaluator import TOPK, count_hits
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.optimizers import make_optimizer
from ppcls_core.engine.schedules import Length
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, Monitor
from ppcls_core.runtime.randomness import seed_of

BEST = "best.pdparams"
Row = dict[str, float]
"""An epoch of a history: epoch, loss, lr; `top1` where it was validated; "rejected: REASON", number
of training images that could not be read so far."""
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
                f"batch_size: {training.loader.batch_size} images cannot be shared equally by "
                f"{world().size} processes with accumulate {config.accumulate}: take a multiple of "
                f"{parts}"
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

    def remaining_batches(self) -> Iterator[Batch]:
        """This process's part of the batch of each step from the position to the end."""
        epoch = len(self.position.history)
        first = self.position.step - epoch * self._length.steps_per_epoch
        part = (world().rank, world().size)
        return self.training.loader.batches(epoch, first, self.config.epochs - epoch, part)

    def step(self, batches: Iterator[Batch]) -> None:
        """One update, by the next batch. Raises UserError: the loss is not finite, or the batch
        cannot be loaded."""
        lr, parts = self._lr(self.position.step), self.config.accumulate * world().size
        statistics = RunningStatistics(self.model, parts)
        with world().together():
            sums = self._backward(next(batches), statistics)
        loss, *hits = (sums := world().sum(sums))[:3]  # one exchange for all figures of a step
        loss = float(loss) / parts
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.position.step}: lower lr (now {lr:g}), lengthen "
                "the warm-up or set clip_norm; the checkpoint before it is kept"
            )
        world().average_gradients(self._learning)
        statistics.write(sums[3:] / parts)
        self.optimizer.set_lr(lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Gradients go, not to zero: a parameter that gets none must not move, resumed or not.
        self.optimizer.clear_grad(set_to_zero=False)
        if self.average is not None:
            self.average.update(self.position.step)
        if self.training.on_step is not None:
            top1, topk = (float(number) / self.training.loader.batch_size for number in hits)
            self.training.on_step(StepReport(self.position.step, loss, lr, top1, topk))
        self.position.loss_sum += loss
        self.position.step += 1

    def _backward(self, batch: Batch, statistics: RunningStatistics) -> np.ndarray:
        """Leave the gradient of the mean loss over the parts of this process's `batch`.

        Gives loss, top-1 hits, top-k hits and the running statistics, each summed over the parts.
        """
        # As the batch is used, not as it is loaded ahead: what a checkpoint holds must not vary.
        self.position.rejected.update(batch.lost)
        found = statistics.read()
        sums = np.zeros(3 + len(found))
        accumulate, first = self.config.accumulate, world().rank * self.config.accumulate
        seed = seed_of(self.training.loader.seed, self.position.step, "dropout")
        for number, part in enumerate(batch.split(accumulate)):
            paddle.seed(seed + first + number)  # by part, whichever process has it
            if number:
                statistics.write(found)  # each part moves them from where the step began
            with self.config.precision.autocast():
                loss, logits = self.training.objective(self.model, part)
            self.scaler.scale(loss / accumulate).backward()
            known = part.labels >= 0  # of a pool's image no label is known
            hits = count_hits(logits.numpy()[known], part.labels[known], self.training.topk)
            sums += np.concatenate([[float(loss)], hits[1:].sum(1), statistics.read()])
        return sums

    def _close_epoch(self) -> None:
        """Add the finished epoch's row to the history, with top-1 where it is due."""
        checkpoint.require_finite(self)
        epoch = len(self.position.history) + 1
        self.position.rejected = world().union(self.position.rejected)
        rejected = counts_of(self.position.rejected)
        check_lost("training", rejected, len(self.training.loader.images), self.training.max_lost)
        row = {
            "epoch": epoch,
            "loss": self.position.loss_sum / self._length.steps_per_epoch,
            "lr": self._lr(self.position.step - 1),
            **{REJECTED + reason: number for reason, number in rejected.items()},
        }
        if epoch % self.config.eval_every == 0 or epoch == self.config.epochs:
            with self.average.in_model() if self.average else nullcontext():
                row |= self.training.validate(self.model)
                best = max((old.get("top1", -1.0) for old in self.position.history), default=-1.0)
                if row["top1"] > best and world().is_first:  # the earliest of equals stays
                    save_state(self.directory / BEST, state_of(self.model))
        self.position.history.append(row)
        self.position.loss_sum = 0.0
        if self.training.on_epoch is not None:
            self.training.on_epoch(epoch - 1)
        self.monitor.metrics(row)

    def _save_or_stop(self) -> None:
        """Save the checkpoint if it is due in some process; raise Interrupted if one shall stop."""
        is_due = time.monotonic() - self._saved > self._save_seconds
        must_save, must_stop = world().any(is_due, self.monitor.stop_requested)
        if must_save:
            self._save()
            self._saved = time.monotonic()
        if must_stop:
            raise Interrupted

    def _save(self) -> None:
        self.position.rejected = world().union(self.position.rejected)
        checkpoint.save(self.directory, self)

    def _lr(self, step: int) -> float:
        return self.config.schedule(step, self.config.lr, self._length)
