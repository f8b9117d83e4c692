"""Runs a `Job`: trains, evaluates, or tries both out on synthetic images."""

from __future__ import annotations

import csv
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_bytes, write_json
from data_catalog.images.columns import Images, loose_images
from data_catalog.sources import FilesConfig, FilesDataset
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import normalize, train_transform
from ppcls_core.data.views import AugmentedViews
from ppcls_core.engine.distributed import world
from ppcls_core.engine.evaluator import Accuracy, evaluate
from ppcls_core.engine.objectives import Objective, cross_entropy, distillation
from ppcls_core.engine.trainer import StepReport, Training, fit
from ppcls_core.jobs.job import ImageList, Job
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import load_weights, state_of
from ppcls_core.runtime.randomness import generator, seed_of
from ppcls_core.runtime.stop import StopFlag, stop_on_signals

SAVE_SECONDS = 60.0  # between checkpoints
WEIGHTS, HISTORY, SETTINGS = "last.pdparams", "history.json", "job.json"
RUN_TIME = {"workers", "log_every", "save_every", "vdl_dir"}  # settings that change no weights
Scalars = Callable[[StepReport], None]


def train(job: Job, log: Callable[[str], None], scalars: Scalars | None = None) -> Path:
    """Train as `job` says, from its checkpoint if there is one; the folder of its files.

    There lie the last weights (WEIGHTS), the best by validation top-1 (best.pdparams), a row an
    epoch (HISTORY) and the settings (SETTINGS). Of several processes the first writes them.

    Raises:
        Interrupted: asked to stop by a signal; a checkpoint was written.
        UserError: the data or weights are not usable, or the folder is another training's.
    """
    if job.train is None or job.learning is None or job.val is None:
        raise UserError("a training needs `train`, `training` and `val` (TRAIN and VALID)")
    with world().together():
        is_done = world().is_first and _is_done(job)
    if any(world().any(is_done)):
        log("trained already")
        return job.folder
    with world().together():
        model, objective = _model(job, log), _objective(job)
        loader = _loader(job, images_of(job.train, job.num_classes))
        val = images_of(job.val, job.num_classes)
    with _console(log) as monitor:

        def validate(model: paddle.nn.Layer) -> float:
            accuracy = evaluate(model, val, job.preprocess, job.workers, monitor)
            log(f"valid top1:{accuracy.top1:.4f} top5:{accuracy.top5:.4f}")
            return accuracy.top1

        def copy_weights(epoch: int) -> None:
            if job.save_every and epoch % job.save_every == 0 and world().is_first:
                save_state(job.folder / str(epoch) / "ppcls.pdparams", state_of(model))

        report = _StepLog(loader.steps_per_epoch, job.log_every, log, scalars)
        learning = [p for p in model.parameters() if not p.stop_gradient]
        training = Training(model, learning, objective, loader, validate, report, copy_weights)
        history = fit(training, job.learning, job.folder, SAVE_SECONDS, monitor)
    if world().is_first:
        save_state(job.folder / WEIGHTS, state_of(model))
        write_json(job.folder / HISTORY, history)
    return job.folder


def evaluate_job(job: Job, log: Callable[[str], None], per_class: Path | None = None) -> Accuracy:
    """Accuracy of the job's weights on its validation images.

    That of each class goes to the CSV file `per_class`: class, its name if there is one,
    num_images, top1, top5; the shares are empty without images.

    Raises:
        UserError: no weights, or they are for other classes; no images.
    """
    if job.val is None or job.weights is None:
        raise UserError("an evaluation needs `val` and `weights` (VALID and pretrained_model)")
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    load_weights(model, Path(job.weights))
    with _console(log) as monitor:
        images = images_of(job.val, job.num_classes)
        accuracy = evaluate(model, images, job.preprocess, job.workers, monitor)
    if accuracy.num_images == 0:
        raise UserError(f"{job.val.list}: none of its {len(images)} images can be read")
    if per_class is not None and world().is_first:
        _write_classes(per_class, accuracy, images.classes)
    return accuracy


def try_out(job: Job, log: Callable[[str], None]) -> None:
    """Build all that `job` needs and take one step on synthetic images; no file is read or kept.

    Weights are random. A precision that this machine cannot train in becomes fp32, and that is
    said.

    Raises:
        UserError: as the training would.
    """
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    pixels = job.preprocess(_photograph(np.random.default_rng(0)))
    log(f"model {job.model.name}: {job.num_classes} classes, tested at {job.preprocess.size} px")
    if job.learning is None:
        model.eval()
        with paddle.no_grad():
            model(normalize(pixels[None]))
        return log("evaluation: works")
    parts = job.learning.accumulate
    small = {"epochs": 1, "batch_size": 2 * parts, "precision": _precision(job, log)}
    config = job.learning.model_copy(update=small)
    num = config.batch_size
    labels = np.arange(num, dtype=np.int32) % job.num_classes
    images = loose_images(Path(), [str(row) for row in range(num)], labels)
    field = "training" if job.training else "distill"
    trial = job.model_copy(update={field: config, "teacher": _untrained(job)})
    loader = _loader(trial, images, _SyntheticLoader)
    learning = [p for p in model.parameters() if not p.stop_gradient]
    report = _StepLog(1, 1, log, None)
    # Below any accuracy: no weights are written. Nothing is validated, so no epoch is logged.
    training = Training(model, learning, _objective(trial), loader, lambda model: -1.0, report)
    with tempfile.TemporaryDirectory() as folder, _console(lambda line: None) as monitor:
        fit(training, config, Path(folder), SAVE_SECONDS, monitor)
    operators = [op.name for op in (*config.augmentation, config.mix) if op]
    decay = f"{config.regularizer.name} {config.regularizer.factor:g}"
    log(
        f"augmentation {' '.join(operators) or 'none'}; {config.schedule.name} lr {config.lr:g}; "
        f"{config.optimizer.name} {decay}: works"
    )


def images_of(source: ImageList, num_classes: int) -> Images:
    """The images of a list file.

    Raises:
        UserError: no such list, a line without a label, or a label outside the classes.
    """
    root, listed = Path(source.root).absolute(), Path(source.list).absolute()
    config = FilesConfig(kind="files", root=str(root), train=str(listed))
    splits = FilesDataset("images", config, root).build(root, lambda done, total: None)
    assert splits.train is not None
    images = splits.train
    for label in (int(images.labels.min()), int(images.labels.max())):
        if not 0 <= label < num_classes:
            raise UserError(
                f"{source.list}: label {label}, expected 0 to {num_classes - 1}: correct the list "
                "or the number of classes"
            )
    return images


def _write_classes(path: Path, accuracy: Accuracy, names: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "name", "num_images", "top1", "top5"))
    for number, (images, *hits) in enumerate(accuracy.by_class.T.tolist()):
        name = names[number] if number < len(names) and names[number] != str(number) else ""
        shares = [f"{hit / images:.6f}" if images else "" for hit in hits]
        writer.writerow((number, name, images, *shares))
    write_bytes(path, text.getvalue().encode())


def _is_done(job: Job) -> bool:
    """Whether the folder holds this training's result; if it is empty it becomes this training's.

    Raises:
        UserError: it holds another training.
    """
    settings = job.model_dump(mode="json", exclude=RUN_TIME)
    path = job.folder / SETTINGS
    if path.exists() and read_json(path) != settings:
        raise UserError(
            f"{job.folder}: holds a training with other settings; delete it or give another folder"
        )
    write_json(path, settings)
    return (job.folder / HISTORY).exists()


def _model(job: Job, log: Callable[[str], None]) -> Network:
    paddle.seed(seed_of(job.seed, "init"))
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    if job.weights is not None:
        load_weights(model, Path(job.weights), on_new_classifier=log)
    return model


def _objective(job: Job) -> Objective:
    if job.training:
        return cross_entropy(job.training.label_smoothing)
    assert job.distill
    assert job.teacher
    name, spec = job.teacher.model.name, job.teacher.model.spec
    teacher = build_model(name, num_classes=job.num_classes, spec=spec)
    if job.teacher.weights is not None:
        load_weights(teacher, Path(job.teacher.weights))
    return distillation([teacher], job.distill.loss, job.distill.teacher_batch_norm)


def _loader(job: Job, images: Images, kind: type[TrainLoader] = TrainLoader) -> TrainLoader:
    config = job.learning
    assert config
    return kind(
        images,
        config.batch_size,
        config.image_size,
        config.augmentation,
        seed_of(job.seed, "train"),
        job.workers,
        config.mix,
        config.epochs,
    )


class _SyntheticLoader(TrainLoader):
    """Noise in place of photographs, sent through the same augmentation."""

    def _pixels(self, row: int, epoch: int) -> np.ndarray:
        rng = generator(self.seed, epoch, row)
        assert isinstance(self._views, AugmentedViews)
        return train_transform(_photograph(rng), self._views.operators, rng, 0.0)


def _photograph(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (375, 500, 3), np.uint8)


def _untrained(job: Job) -> object:
    return job.teacher and job.teacher.model_copy(update={"weights": None})


def _precision(job: Job, log: Callable[[str], None]) -> object:
    assert job.learning
    precision = job.learning.precision
    try:
        precision.check()
    except UserError as error:
        log(f"tried in fp32: {error}")
        return precision.model_copy(update={"dtype": "fp32"})
    return precision


@dataclass
class _StepLog:
    """A line of PaddleClas's form every few steps."""

    steps_per_epoch: int
    every: int
    log: Callable[[str], None]
    scalars: Scalars | None
    since: float = 0.0

    def __call__(self, report: StepReport) -> None:
        now = time.monotonic()
        elapsed, self.since = now - (self.since or now), now
        if self.scalars is not None:
            self.scalars(report)
        epoch, step = divmod(report.step, self.steps_per_epoch)
        if step % self.every == 0:
            self.log(
                f"epoch:{epoch} train step:{step} loss:{report.loss:.4f} top1:{report.top1:.4f} "
                f"top5:{report.top5:.4f} lr:{report.lr:.6f} elapse:{elapsed:.3f}"
            )


class _Console:
    """Monitor of a terminal: notes are logged, a signal asks for a stop."""

    def __init__(self, log: Callable[[str], None], stop: StopFlag) -> None:
        self.log, self.stop = log, stop

    @property
    def stop_requested(self) -> bool:
        return self.stop.is_set or world().is_abandoned

    def note(self, message: str) -> None:
        self.log(message)

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def metrics(self, values: Mapping[str, float]) -> None:
        epoch = int(values["epoch"]) - 1
        rest = " ".join(f"{name}:{value:.4f}" for name, value in values.items() if name != "epoch")
        self.log(f"END epoch:{epoch} {rest}")


@contextmanager
def _console(log: Callable[[str], None]) -> Iterator[_Console]:
    """A monitor of the block, which a signal asks to stop."""
    with stop_on_signals() as stop:
        yield _Console(log, stop)
