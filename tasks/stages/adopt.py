"""A teacher that is no network of Paddle, or the mean of several, as the teacher stage's result.

Files, beside history.json: model.json (a `MeanTeacher` whose files are relative to the stage's
folder); model/N/... of the N-th teacher: the ONNX file with those that hold its tensors, or the
label file as `import_labels` writes it, or model.pdparams.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_catalog.base.config import parse
from data_catalog.base.files import atomic_path, read_json, write_json
from ppcls_core.data.lost import Lost, check_lost, counts_of
from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import TestView
from ppcls_core.engine.evaluator import BATCH_SIZE, Accuracy, count_hits
from ppcls_core.engine.run import HISTORY
from ppcls_core.inference.onnx_session import external_data
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.labels.config import LabelFileConfig, OnnxConfig, class_order, read_names
from ppcls_core.labels.table import import_labels
from ppcls_core.labels.teacher import (
    Engine,
    FileTeacher,
    MeanTeacher,
    Member,
    NetworkTeacher,
    OnnxTeacher,
    Teacher,
)
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import check
from tasks.recipe import AnyTeacher
from tasks.run.stage import Outcome, Work

WEIGHTS = "model.pdparams"
ADOPTED = "model.json"


def adopt(work: Work) -> Outcome:
    """Take the teachers over, their classes matched with the data's, and measure their mean.

    Raises UserError: a file is not as it should be, or of other classes.
    """
    shutil.rmtree(work.path("model"), ignore_errors=True)  # of a run that was killed
    configs = work.recipe.teachers.values()
    members = tuple(_adopted(work, n, config) for n, config in enumerate(configs))
    shares = np.array([config.weight or 1.0 for config in configs])
    teacher = MeanTeacher(teachers=members, weights=tuple((shares / shares.sum()).tolist()))
    write_json(work.path(ADOPTED), teacher.model_dump(mode="json"))
    write_json(work.path(HISTORY), [])
    accuracy = measure(work, teacher.within(work.directory))
    files = [path for path in work.path("model").rglob("*") if path.is_file()]
    names = [path.relative_to(work.directory).as_posix() for path in files]
    metrics = {"top1": accuracy.top1} if accuracy.num_images else {}
    return Outcome([ADOPTED, HISTORY, *names], accuracy.counts, metrics)


def teacher_of(work: Work) -> Teacher:
    """The teacher, as any process can open it."""
    result, network = work.inputs["teacher"], work.recipe.network
    if network is None:
        path = result.path(ADOPTED)
        return parse(MeanTeacher, read_json(path), str(path)).within(result.directory)
    return NetworkTeacher(
        model=network.model,
        num_classes=work.num_classes(),
        weights=result.path(WEIGHTS),
        preprocess=network.preprocess,
    )


def measure(work: Work, teacher: Teacher) -> Accuracy:
    """Accuracy on the validation images; of a label file on those that it has.

    Raises Interrupted, UserError: as `ppcls_core.engine.evaluator.evaluate_each`.
    """
    val, run_time = work.images("data/val.arrow"), work.recipe.run_time
    rows = {image_id: row for row, image_id in enumerate(val.ids)}
    items = [(image_id, val.source(row), 0) for image_id, row in rows.items()]
    engine = replace(engine_of(work), batch_size=BATCH_SIZE)
    hits, lost = np.zeros((3, len(val.classes)), np.int64), Lost()
    for good, logits, bad in teacher.answers(engine, test_view(work))(items):
        check(work.monitor)
        lost.update({item[0]: (error.reason, error.detail) for item, error in bad})
        if good:
            hits += count_hits(logits, val.labels[[rows[item[0]] for item in good]])
    counts = counts_of(lost)
    unreadable = {reason: n for reason, n in counts.items() if reason != "unlabelled"}
    check_lost("validation", unreadable, len(val), run_time.max_lost)
    if not hits[0].any():
        work.monitor.note("the teacher has no label of a validation image: its accuracy is unknown")
    return Accuracy(hits, counts)


def test_view(work: Work) -> TestView:
    """How the teacher sees the images of the pool; each of several as its own settings say."""
    network = work.recipe.network
    return TestView(preprocess=network.preprocess if network else Preprocess())


def engine_of(work: Work) -> Engine:
    """A teacher's share of the machine in each of as many processes as there are devices."""
    run_time, threads = work.recipe.run_time, int(os.environ["OMP_NUM_THREADS"])
    threads, workers = (max(1, n // run_time.devices) for n in (threads, run_time.workers))
    return Engine(threads=threads, workers=workers, batch_size=work.recipe.label.batch_size)


def _adopted(work: Work, number: int, config: AnyTeacher) -> Member:
    """Teacher `number` with its files copied, named relative to the stage's folder."""
    folder, classes = Path(f"model/{number}"), work.images("data/val.arrow").classes
    work.path(str(folder)).mkdir(parents=True)
    if isinstance(config, LabelFileConfig):
        target = folder / "labels.parquet"
        num_rows = import_labels(config, classes, work.path(str(target)))
        work.monitor.note(f"teacher {config.labels}: {num_rows:,} images")
        return FileTeacher(path=target)
    if isinstance(config, OnnxConfig):
        return _onnx(work, folder, config, classes)
    assert config.weights is not None, "a recipe with several teachers is checked for it"
    check_class_names(Path(config.weights), classes)
    found = NetworkTeacher(
        model=config.model,
        num_classes=len(classes),
        weights=Path(config.weights),
        preprocess=config.preprocess,
    )
    save_state(work.path(str(folder / WEIGHTS)), state_of(found.network()))
    return found.model_copy(update={"weights": folder / WEIGHTS})


def _onnx(work: Work, folder: Path, config: OnnxConfig, classes: Sequence[str]) -> OnnxTeacher:
    source, names = Path(config.onnx), config.classes and read_names(Path(config.classes))
    data = [path.relative_to(source.parent) for path in external_data(source)]
    for name in (Path(source.name), *data):
        with atomic_path(work.path(str(folder / name))) as temporary:
            shutil.copyfile(source.parent / name, temporary)
    assert config.preprocess is not None, "a recipe fills it in"
    found = OnnxTeacher(
        preprocess=config.preprocess,
        config=config,
        path=folder / source.name,
        data=tuple(folder / name for name in data),
        order=class_order(names or classes, classes, str(config.classes)),
    )
    if names is None:
        work.monitor.note(f"teacher {source}: no class names; its order is taken for the data's")
    session = found.within(work.directory).session(engine_of(work))
    work.monitor.note(
        f"teacher {source}: onnxruntime's {session.provider}, from {session.inputs[0]} to "
        f"{session.outputs[0]}"
    )
    return found
