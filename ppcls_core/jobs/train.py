"""Runs a `Job`: trains, evaluates, or tries both out on synthetic images."""

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import cv2
import numpy as np
import paddle

from data_catalog.base.errors import UserError, errors_of, settings_named, with_settings_named
from data_catalog.base.files import read_json, write_csv, write_json
from data_catalog.base.words import counted
from data_catalog.images.columns import Images, loose_images
from data_catalog.images.identity import content_digest
from data_catalog.sources import Dataset, FilesConfig
from ppcls_core.data.lost import check_lost, missing_of
from ppcls_core.engine.config import DistillTraining, LabelTraining
from ppcls_core.engine.distributed import join, world
from ppcls_core.engine.evaluator import Accuracy, EvalData, evaluate
from ppcls_core.engine.objectives import Objective, cross_entropy, distillation
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.run import HISTORY, SAVE_SECONDS, Run, trainer_of
from ppcls_core.engine.run import train as train_model
from ppcls_core.engine.trainer import StepReport
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.jobs.job import RUN_TIME, ImageList, Job, recorded
from ppcls_core.jobs.trained import Trained
from ppcls_core.models.networks.layers import Network, normalize
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import find_weights, save_state, weights_digest
from ppcls_core.models.weights.record import INPUTS, SETTINGS
from ppcls_core.models.weights.state import load_weights, state_of
from ppcls_core.runtime.monitor import Monitor, StopFlag, stop_on_signals
from ppcls_core.runtime.randomness import seed_of

WEIGHTS = "last.pdparams"
_SHOWN = 9  # settings in a message
Split = Literal["train", "val"]
Log = Callable[[str], None]
T = TypeVar("T")


class Supervisor(Protocol):
    """Who runs trainings one after another, as a search does."""

    @property
    def stop_requested(self) -> bool:
        """Whether the training should save what is done and raise Interrupted."""
        ...

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Take the epoch's row of the history; what this raises ends the training."""


def train(job: Job, log: Log, supervisor: Supervisor | None = None) -> Path:
    """Train as `job` says, from its checkpoint if there is one; the folder of its files.

    There lie the last weights (WEIGHTS), the best by validation top-1 (best.pdparams) if there is
    one, a row an epoch (HISTORY), and settings and digests of the inputs (SETTINGS). Of several
    processes that Paddle's launcher started the first writes them and logs. Raises Interrupted:
    asked to stop by a signal or the `supervisor`; a checkpoint was written; UserError, which calls
    settings as the user's file does: the data or weights are not usable, or the folder is another
    training's; whatever the supervisor raises after an epoch.
    """
    with settings_named(job.key):
        return _train(job, _of_first(log), supervisor)


def _train(job: Job, log: Log, supervisor: Supervisor | None) -> Path:
    splits: tuple[Split, ...] = ("train", "val") if job.is_validated else ("train",)
    if job.learning is None or any(getattr(job, split) is None for split in splits):
        keys = dict.fromkeys(f"`{job.key(name)}`" for name in (*splits, "training"))
        lacks_val_alone = job.learning is not None and job.train is not None
        remedy = f"; there is no `{job.key('val')}`: add it, or say {job.unvalidated}"
        raise UserError(f"a training needs {', '.join(keys)}{remedy if lacks_val_alone else ''}")
    with world().together():
        images, *rest = _files_of(job, *splits)
        tested = rest[0] if rest else images.take([])
        val = EvalData(tested, job.preprocess, job.workers, job.max_lost, job.shown_topk)
        is_done = world().is_first and _is_done(job, images, val.images, log)
    if any(world().any(is_done)):  # all return, or none
        log(f"trained already: {job.folder}")
        return job.folder
    if not job.is_validated:
        log(f"no epoch is validated, as the settings say: none is the best, and {WEIGHTS} counts")
    with world().together():
        model, objective = _model(job, log), _objective(job, images)
    _tell_topk(job, log)
    _tell_without_images(job, images, log)
    scalars = _Scalars(Path(job.vdl_dir)) if job.vdl_dir and world().is_first else None
    step_log = _step_log(job, len(images) // job.learning.batch_size, log, scalars)

    def copy_weights(epoch: int) -> None:
        if job.save_every and epoch % job.save_every == 0 and world().is_first:
            save_state(job.folder / str(epoch) / "ppcls.pdparams", state_of(model))

    def tell(found: Accuracy) -> None:
        shares = _shares(found.top1, found.topk, job.shown_topk)
        log(f"valid {_listed(shares)}")
        if scalars is not None:
            scalars.add("valid", shares, step_log.step)

    with _console(log, job, supervisor) as monitor:
        run = Run(
            images,
            val,
            job.learning,
            seed_of(job.seed, "train"),
            job.folder,
            monitor,
            weights=WEIGHTS,
            on_step=step_log,
            on_epoch=copy_weights,
            on_validation=tell,
        )
        train_model(model, objective, run)
    log(f"written: {job.folder}")
    return job.folder


def evaluate_job(job: Job, log: Log, per_class: Path | None = None) -> Accuracy:
    """Accuracy of the job's weights on its validation images, logged by the first process.

    That of each class goes to the CSV file `per_class`: class, its name if there is one,
    num_images, top1 and, with `topk` 5 of more classes, top5; the shares are empty without images.

    Raises UserError, which calls settings as the user's file does: no weights, or they are for
    other classes; too few images can be read.
    """
    with settings_named(job.key):
        return _evaluate(job, _of_first(log), per_class)


def _evaluate(job: Job, log: Log, per_class: Path | None) -> Accuracy:
    if job.val is None or job.weights is None:
        keys = " and ".join(f"`{job.key(name)}`" for name in ("val", "weights"))
        has_teacher = job.teacher is not None and job.teacher.weights is not None
        hint = "; what is named is the teacher's, give a list with the student's second"
        raise UserError(f"an evaluation needs {keys}{hint if has_teacher else ''}")
    (images,) = _files_of(job, "val")
    check_class_names(find_weights(Path(job.weights)), images.classes)  # not their number alone
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    load_weights(model, Path(job.weights))
    _tell_topk(job, log)
    record, size = recorded(Path(job.weights)), job.preprocess.size
    if record and record[1].preprocess.size != size:
        own = record[1].preprocess.size
        log(
            f"{record[0]}: the training tested at {own} pixels, {job.key('preprocess')} says {size}"
        )
    data = EvalData(images, job.preprocess, job.workers, job.max_lost, job.shown_topk)
    return _measure(job, model, data, log, per_class)


def evaluate_student(
    student: Trained, images: Images, log: Log, per_class: Path | None = None
) -> Accuracy:
    """Accuracy on `images` of a student that the pipeline has exported; as `evaluate_job`."""
    assert student.weights, "a student's weights lie beside it"
    check_class_names(student.weights, images.classes)
    workers, topk = len(os.sched_getaffinity(0)), student.job.shown_topk
    data = EvalData(images, student.preprocess, workers, topk=topk)
    return _measure(student.job, student.network(), data, _of_first(log), per_class)


def _measure(
    job: Job, model: Network, data: EvalData, log: Log, per_class: Path | None
) -> Accuracy:
    with _console(log, job) as monitor:
        accuracy = evaluate(model, data, monitor)
    if per_class is not None and world().is_first:
        _write_classes(per_class, accuracy, data.images.classes, data.topk)
    shares = _shares(accuracy.top1, accuracy.topk, data.topk)
    log(" ".join((_listed(shares), f"images:{accuracy.num_images}")))
    for reason, count in accuracy.lost.items():
        log(f"left out as {reason}: {count}")
    return accuracy


def try_out(job: Job, log: Log) -> None:
    """Build all that `job` needs and take one step on synthetic images; no file is read or kept.

    Weights are random. A precision that this machine cannot train in becomes fp32, and that is
    said.

    Raises UserError: as the training would.
    """
    with settings_named(job.key):
        _try_out(job, log)


def _try_out(job: Job, log: Log) -> None:
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    log(
        f"model {job.model.name}: {counted(job.num_classes, 'class')}, tested at "
        f"{job.preprocess.size} px"
    )
    if job.learning is None:
        model.eval()
        with paddle.no_grad():
            model(normalize(job.preprocess(_noise(0))[None], model))
        return log("evaluation: works")
    small = {"epochs": 1, "batch_size": 2 * job.learning.accumulate}
    config = job.learning.model_copy(update={**small, "precision": _precision(job, log)})
    teacher = job.teacher and job.teacher.model_copy(update={"weights": None})
    with tempfile.TemporaryDirectory() as name, _console(log, job) as monitor:
        images = noise_images(Path(name), config.batch_size, job.num_classes)
        objective = _objective(job.model_copy(update={"teacher": teacher}), images)
        data = EvalData(images, job.preprocess, job.workers, topk=job.shown_topk)
        report = _step_log(job.model_copy(update={"log_every": 1}), 1, log, None)
        seed = seed_of(job.seed, "train")
        run = Run(images, data, config, seed, Path(name), monitor, on_step=report)
        trainer = trainer_of(model, objective, run)
        trainer.step(trainer.remaining_batches())
        trainer.settle()
    log(f"{_described(config)}: works")


def images_of(job: Job, *splits: Split) -> list[Images]:
    """The images of `splits`, which the job has: those of its list files or class folders. Raises
    UserError: no such list, a line without a label, a label outside the classes, or splits that
    number one class differently."""
    sources: dict[str, ImageList] = {split: getattr(job, split) for split in splits}
    lists = {split: str(Path(source.list).absolute()) for split, source in sources.items()}
    roots = {split: Path(source.root).absolute() for split, source in sources.items()}
    delimiters = {split: source.delimiter for split, source in sources.items()}
    config = FilesConfig.model_validate({"root": "", **lists})
    keys = {"num_classes": job.key("num_classes"), "classes": ""}  # a job has no names of classes
    for split in splits:
        keys |= {f"{split}.{name}": job.key(f"{split}.{name}") for name in ("root", "delimiter")}
        keys[split] = job.key(f"{split}.list")
    dataset = Dataset("images", config, Path.cwd(), roots, delimiters, job.num_classes, keys)
    found = dataset.build(Path(), lambda done, total: None)
    return [getattr(found, split) for split in splits]


def _files_of(job: Job, *splits: Split) -> list[Images]:
    """As `images_of`. Raises UserError also for more than `max_lost` of the files missing."""
    found = images_of(job, *splits)
    for split, images in zip(splits, found, strict=True):
        kind, root = ("training", job.train) if split == "train" else ("validation", job.val)
        assert root
        with errors_of(f"`{split}.list` below {Path(root.root).absolute()} (`{split}.root`)"):
            check_lost(kind, missing_of(images), len(images), job.max_lost)
    return found


def _write_classes(path: Path, accuracy: Accuracy, names: Sequence[str], topk: int) -> None:
    def row(number: int) -> dict[str, object]:
        name = names[number] if number < len(names) and names[number] != str(number) else ""
        images, *hits = accuracy.by_class[:, number].tolist()
        top1, among = (f"{hit / images:.6f}" if images else "" for hit in hits)
        shares = _shares(top1, among, topk)
        return dict(zip(columns, (number, name, images, *shares.values()), strict=True))

    columns = ["class", "name", "num_images", *_shares(0, 0, topk)]
    write_csv(path, columns, map(row, range(accuracy.by_class.shape[1])))


def _of_first(log: Log) -> Log:
    """Join the other processes of this launch; `log` where this is the first, else silence."""
    return log if join().is_first else lambda line: None


def _is_done(job: Job, images: Images, val: Images, log: Log) -> bool:
    """Whether the folder holds this training's result; if there is nothing to lose in it, it
    becomes this training's. `log` is told where one begins anew.
    Raises UserError: it holds a training with other settings, images, labels or weights."""
    settings = job.model_dump(mode="json", exclude=RUN_TIME)
    settings[INPUTS] = _inputs_of(job, images, val)
    path = job.folder / SETTINGS
    is_begun, goes_on = path.exists(), any(job.folder.glob("*.pdckpt"))
    has_weights = any(job.folder.glob("*.pdparams")) or any(job.folder.glob("*/ppcls.pdparams"))
    if not is_begun and goes_on:
        raise UserError(
            f"{job.folder}: holds a checkpoint without {SETTINGS}, which says what it is of; "
            "delete the folder"
        )
    is_done = (job.folder / HISTORY).exists()
    others = _differences(read_json(path), settings) if is_begun else []
    if others and (goes_on or has_weights or is_done):
        names = [*dict.fromkeys(map(job.key, others))]
        more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        keys = ", ".join([*names[:_SHOWN], *more])
        raise UserError(
            f"{job.folder}: holds a training with other settings or inputs ({keys}); delete the "
            f"folder to train anew, or give another one ({job.key('output')})"
        )
    if is_begun and not (goes_on or is_done):
        log(
            f"{job.folder}: begins anew: the training here ended before its first checkpoint (one "
            f"is written every {SAVE_SECONDS:g} seconds, and when it is asked to stop)"
        )
    write_json(path, settings)
    return is_done


def _inputs_of(job: Job, images: Images, val: Images) -> dict[str, str]:
    """sha256 (hex) of images with labels, and of weights. Raises UserError: no such weights."""
    found = {"training images": content_digest(images), "validation images": content_digest(val)}
    given = {"weights": job.weights, "teacher's weights": job.teacher and job.teacher.weights}
    return found | {name: weights_digest(Path(path)) for name, path in given.items() if path}


def _differences(recorded: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Names of the settings and `inputs` of a job that are not as they were recorded."""
    if not isinstance(recorded, dict):
        return ["settings (its record is damaged)"]
    before, found = _leaves(recorded), _leaves(wanted)
    names = sorted(name for name in before.keys() | found if before.get(name) != found.get(name))
    return [name.removeprefix(f"{INPUTS}.") for name in names]


def _leaves(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested settings by a.b, lists as one value; an empty section is None."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _leaves(value, f"{above}{name}.") if isinstance(value, dict) else {}
        found |= inner or {above + name: None if value == {} else value}
    return found


def _model(job: Job, log: Callable[[str], None]) -> Network:
    paddle.seed(seed_of(job.seed, "init"))  # Paddle draws initial weights from its global state
    model = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    if job.weights is not None:
        load_weights(model, Path(job.weights), on_new_classifier=log)
    return model


def _objective(job: Job, images: Images) -> Objective:
    if job.training:
        return cross_entropy(job.training.label_smoothing)
    assert job.distill
    assert job.teacher
    name, spec = job.teacher.model.name, job.teacher.model.spec
    teacher = build_model(name, num_classes=job.num_classes, spec=spec)
    if job.teacher.weights is not None:
        weights = find_weights(Path(job.teacher.weights))
        check_class_names(weights, images.classes)
        wanted = f"{name} with the {job.num_classes} classes of the data"
        with errors_of(f"the teacher's weights, for {wanted}"):
            load_weights(teacher, weights)
    return distillation([teacher], job.distill.loss, job.distill.teacher_batch_norm)


def _noise(seed: int) -> np.ndarray:
    """uint8 [375, 500, 3], the usual size of a photograph of ImageNet."""
    return np.random.default_rng(seed).integers(0, 256, (375, 500, 3), np.uint8)


def noise_images(folder: Path, num: int, num_classes: int) -> Images:
    """Images of noise written to `folder`, their labels in turn."""
    names = [f"{row}.png" for row in range(num)]
    for row, name in enumerate(names):
        cv2.imwrite(str(folder / name), _noise(row))
    return loose_images(folder, names, np.arange(num, dtype=np.int32) % num_classes)


def _precision(job: Job, log: Log) -> Precision:
    assert job.learning
    precision = job.learning.precision
    try:
        precision.check()
    except UserError as error:
        log(f"tried in fp32: {with_settings_named(str(error), job.key)}")
        return precision.model_copy(update={"dtype": "fp32"})
    return precision


def _described(config: LabelTraining | DistillTraining) -> str:
    """Augmentation, schedule and optimizer in a line."""
    operators = [op.name for op in (*config.augmentation, config.mix) if op]
    decay = f"{config.regularizer.name} {config.regularizer.factor:g}"
    return (
        f"augmentation {' '.join(operators) or 'none'}; {config.schedule.name} lr {config.lr:g}; "
        f"{config.optimizer.name} {decay}"
    )


class _Scalars:
    """Writes curves to a folder, by VisualDL."""

    def __init__(self, folder: Path) -> None:
        try:
            visualdl = importlib.import_module("visualdl")  # no dependency of ours
        except ImportError as error:
            raise UserError("--vdl_dir needs VisualDL: pip install visualdl") from error
        self._writer = visualdl.LogWriter(str(folder))

    def add(self, kind: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)


@dataclass
class _StepLog:
    """A line of PaddleClas's form every few steps."""

    steps_per_epoch: int
    every: int
    log: Log
    scalars: _Scalars | None
    topk: int | None  # None: accuracies are not told
    since: float = field(default_factory=time.monotonic)  # the last step, at first the start
    step: int = 0

    def __call__(self, report: StepReport) -> None:
        now = time.monotonic()
        elapsed, self.since = now - self.since, now
        self.step = report.step
        shares = _shares(report.top1, report.topk, self.topk) if self.topk else {}
        if self.scalars is not None:
            values = {"loss": report.loss, **shares, "lr": report.lr}
            self.scalars.add("train", values, report.step)
        epoch, step = divmod(report.step, self.steps_per_epoch)
        if step % self.every == 0:
            figures = {"loss": report.loss, **shares}
            rest = f"lr:{report.lr:.6f} elapse:{elapsed:.3f}"
            self.log(f"epoch:{epoch} train step:{step} {_listed(figures)} {rest}")


def _step_log(job: Job, steps_per_epoch: int, log: Log, scalars: _Scalars | None) -> _StepLog:
    """That of the job; a mixed image has two labels, so of mixed batches no accuracy is told."""
    assert job.learning
    topk = None if job.learning.mix else job.shown_topk
    return _StepLog(steps_per_epoch, job.log_every, log, scalars, topk)


def _tell_topk(job: Job, log: Log) -> None:
    if "topk" in job.model_fields_set and job.shown_topk != job.topk:
        log(
            f"top{job.topk} is left out: it is always 1 with {counted(job.num_classes, 'class')} "
            f"({job.key('topk')})"
        )


def _tell_without_images(job: Job, images: Images, log: Log) -> None:
    num = job.num_classes - len(np.unique(images.labels))
    if num:
        what = f"{num} of the {job.num_classes} classes ({job.key('num_classes')})"
        log(f"{what} have no image in {job.key('train.list')}")


def _shares(top1: T, topk: T, k: int) -> dict[str, T]:
    """Both by their names, which are one where `k` is 1."""
    return {"top1": top1, f"top{k}": topk}


def _listed(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name}:{value:.4f}" for name, value in figures.items())


class _Console(Monitor):
    """Monitor of a terminal: notes are logged, a signal asks for a stop."""

    def __init__(self, log: Log, job: Job, stop: StopFlag, supervisor: Supervisor | None) -> None:
        self.log, self.job, self.stop, self.supervisor = log, job, stop, supervisor

    @property
    def stop_requested(self) -> bool:
        if self.supervisor is not None and self.supervisor.stop_requested:
            return True
        return self.stop.is_set or world().is_abandoned  # a killed launcher sends no signal

    def note(self, message: str) -> None:
        self.log(with_settings_named(message, self.job.key))

    def metrics(self, values: Mapping[str, float]) -> None:
        epoch = int(values["epoch"]) - 1  # PaddleClas counts from 0
        texts = {n: f"{v:.4f}" if isinstance(v, float) else str(v) for n, v in values.items()}
        rest = " ".join(f"{name}:{text}" for name, text in texts.items() if name != "epoch")
        self.log(f"END epoch:{epoch} {rest}")
        if self.supervisor is not None:
            self.supervisor.after_epoch(values)


@contextmanager
def _console(log: Log, job: Job, supervisor: Supervisor | None = None) -> Iterator[_Console]:
    """A monitor of the block, which a signal or the supervisor asks to stop."""
    with stop_on_signals() as stop:
        yield _Console(log, job, stop, supervisor)
