"""One training from its images to its files, for the stages, `ppcls train` and `ppcls quantize`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paddle

from data_catalog.base.files import write_json
from data_catalog.images.columns import Images
from ppcls_core.data.loader import Replay, TrainLoader
from ppcls_core.data.lost import (
    check_lost,
    lost_text,
    missing_of,
    rejected_counts,
    rejected_reason,
)
from ppcls_core.engine.config import DistillTraining, LabelTraining, TrainConfig
from ppcls_core.engine.distributed import world
from ppcls_core.engine.evaluator import Accuracy, EvalData, evaluate
from ppcls_core.engine.objectives import Objective
from ppcls_core.engine.threads import on_threads, threads_of_step
from ppcls_core.engine.trainer import Row, StepReport, Trainer, Training
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.threads import max_threads

HISTORY = "history.json"
VAL = "val "  # before a count of rejected images: of validation images, in the last validation
SAVE_SECONDS = 60.0  # between checkpoints


@dataclass(frozen=True)
class Run:
    """Where a training takes its images from, how the model learns from them, and where it is kept.

    `seed` decides order and augmentation; `workers` threads load images. The training, and each
    validation, fails when more than the share `max_lost` of its images cannot be read. With
    `replay` the batches hold a teacher's stored outputs.
    """

    images: Images
    val: EvalData
    config: TrainConfig
    seed: int
    directory: Path
    monitor: Monitor
    weights: str = "model.pdparams"  # file of the last weights in the directory
    save_seconds: float = SAVE_SECONDS
    replay: Replay | None = None
    on_step: Callable[[StepReport], None] | None = None
    on_epoch: Callable[[int], None] | None = None  # as in Training
    on_validation: Callable[[Accuracy], None] | None = None

    @property
    def loader(self) -> TrainLoader:
        """The training batches; Fix, which does not augment, sees its images as in a test."""
        config = self.config
        augments = isinstance(config, LabelTraining | DistillTraining)
        return TrainLoader(
            self.images,
            config.batch_size,
            config.image_size,
            config.augmentation if augments else config.preprocess,
            self.seed,
            self.val.workers,
            config.mix if augments else None,
            config.epochs,
            self.replay,
        )


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: a row an epoch, and numbers of images.

    `counts` are the training images `in`, those `out` that could be read, by reason the others
    ("rejected: REASON") and the validation images that could not be read ("val rejected: REASON").
    `threads` are those of the CPU that each process computed on.
    """

    history: list[Row]
    counts: dict[str, int]
    threads: int


def trainer_of(model: paddle.nn.Layer, objective: Objective, run: Run) -> Trainer:
    """The trainer of `model`. Raises UserError: too few images for a batch, or as `Trainer`."""

    def validate(model: paddle.nn.Layer) -> Row:
        accuracy = evaluate(model, run.val, run.monitor)
        if run.on_validation is not None:
            run.on_validation(accuracy)
        return {"top1": accuracy.top1, **_of_val(rejected_counts(accuracy.lost))}

    hooks = (validate, run.on_step, run.on_epoch)
    training = Training(model, objective, run.loader, *hooks, run.val.max_lost, run.val.topk)
    return Trainer(training, run.config, run.directory, run.save_seconds, run.monitor)


def train(model: paddle.nn.Layer, objective: Objective, run: Run) -> TrainingResult:
    """Train to the end, from the checkpoint in the directory if there is one.

    There lie then the last weights, the best by validation top-1 (`trainer.BEST`) and HISTORY;
    without a validation (`eval_every` 0) `run.val.images` are not looked at and none are best. Of
    several processes, which all call this alike, the first writes them. Images that could not be
    read are reported to the monitor at the end. Raises Interrupted: a stop was requested; a
    checkpoint was written; UserError: too many images are not there, or as `trainer_of` and
    `Trainer.fit`.
    """
    with world().together():
        sets = {"training": run.images}
        if run.config.eval_every:
            sets["validation"] = run.val.images
        for kind, images in sets.items():
            check_lost(kind, missing_of(images), len(images), run.val.max_lost)
        trainer = trainer_of(model, objective, run)
    config = run.config
    num_images = config.batch_size // (config.accumulate * world().size)
    threads = threads_of_step(model, objective.teachers, config.image_size, num_images)
    if threads < max_threads() and world().is_first:
        run.monitor.note(f"threads: {threads} of {max_threads()}, as the steps are small")
    with on_threads(threads):
        history = trainer.fit()
    if world().is_first:
        processes, pace = world().size, trainer.training.loader.pace
        if text := pace.text(run.val.workers * processes, "the step", processes):
            run.monitor.note(text)
        save_state(run.directory / run.weights, state_of(model))
        write_json(run.directory / HISTORY, history)
    lost, val_lost = _lost(history[-1]), _lost(history[-1], VAL)
    for kind, counts, images in (
        ("training", lost, run.images),
        ("validation", val_lost, run.val.images),
    ):
        if text := lost_text(kind, counts, len(images)):
            run.monitor.note(text)
    counts = {"in": len(run.images), "out": len(run.images) - sum(lost.values())}
    counts |= rejected_counts(lost) | _of_val(rejected_counts(val_lost))
    return TrainingResult(history, counts, threads)


def _of_val(counts: dict[str, int]) -> dict[str, int]:
    return {VAL + name: number for name, number in counts.items()}


def _lost(row: Row, prefix: str = "") -> dict[str, int]:
    """The numbers by reason of `row`'s counts of rejected images with this prefix."""
    return {
        reason: int(number)
        for name, number in row.items()
        if name.startswith(prefix) and (reason := rejected_reason(name[len(prefix) :]))
    }
