"""Teachers as stages open and measure them, and those that are no network of Paddle taken over.

Files of the latter, beside history.json and measured.parquet: model.json (a `MeanTeacher` whose
files are relative to the stage's folder); model/N/... of the N-th teacher: the ONNX file with those
that hold its tensors, or the label file as `import_labels` writes it, or model.pdparams.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.config import parse
from data_catalog.base.files import atomic_path, read_json, write_json, write_table
from data_catalog.base.words import counted
from data_catalog.images.columns import REJECTED
from ppcls_core.data.lost import check_lost, reason_counts
from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import TestView
from ppcls_core.engine.evaluator import PREDICTIONS, Accuracy, accuracy_of, predictions
from ppcls_core.engine.run import HISTORY
from ppcls_core.inference.onnx_session import external_data
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.labels.config import LabelFileConfig, OnnxConfig
from ppcls_core.labels.labeller import collect
from ppcls_core.labels.table import import_labels
from ppcls_core.labels.teacher import (
    Answers,
    Engine,
    FileTeacher,
    Item,
    MeanTeacher,
    Member,
    NetworkTeacher,
    OnnxTeacher,
    Teacher,
    items_of,
)
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.shards import Advance, Process, read_shards
from ppcls_core.runtime.threads import max_threads
from tasks.recipe import AnyTeacher, TeacherConfig
from tasks.run.processes import make_shards
from tasks.run.stage import Outcome, Work

WEIGHTS = "model.pdparams"
ADOPTED, MEASURED = "model.json", "measured.parquet"
_LOST = b"lost"
_PER_GPU = 2
_PROCESS, _COPIES = 1 << 30, 4  # bytes of a process, and copies of the weights that it holds


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
    return Outcome([ADOPTED, HISTORY, MEASURED, *names], accuracy.counts, metrics)


def teacher_of(work: Work) -> Teacher:
    """The teacher, as any process can open it."""
    result, network = work.inputs["teacher"], work.recipe.network
    if network is None:
        path = result.path(ADOPTED)
        return parse(MeanTeacher, read_json(path), str(path)).within(result.directory)
    return network_teacher(work, network, result.directory)


def network_teacher(work: Work, config: TeacherConfig, folder: Path) -> NetworkTeacher:
    """The teacher `config` with the weights that the stage of that folder has made."""
    return NetworkTeacher(
        model=config.model,
        num_classes=work.num_classes(),
        weights=folder / WEIGHTS,
        preprocess=config.preprocess,
    )


def measured_teacher(work: Work) -> tuple[pa.Table, Accuracy]:
    """PREDICTIONS and accuracy of the teacher, as its stage has measured it, or measured now where
    it was trained."""
    result = work.inputs["teacher"]
    if MEASURED not in result.files:
        accuracy, path = measure(work, teacher_of(work)), work.path(MEASURED)
        return pq.read_table(path), accuracy
    found = pq.read_table(result.path(MEASURED))
    lost = json.loads(found.schema.metadata[_LOST])
    return found, accuracy_of(found, work.num_classes(), lost)


def measure(work: Work, teacher: Teacher) -> Accuracy:
    """Accuracy on the validation images; PREDICTIONS are written to MEASURED, with what was lost
    (reason: number) in its metadata. Of a label file on those that it has.

    Raises Interrupted: a stop was requested; UserError: as `check_lost`, or a file of the teacher
    is not as it should be.
    """
    val = work.images("data/val.arrow")
    num_shards = make_shards(work, "val", len(val), partial(_measuring, teacher))
    found = read_shards(work.path("val"), "predictions", num_shards, PREDICTIONS)
    counts = reason_counts(read_shards(work.path("val"), "rejected", num_shards, REJECTED))
    unreadable = {reason: n for reason, n in counts.items() if reason != "unlabelled"}
    check_lost("validation", unreadable, len(val), work.recipe.run_time.max_lost)
    if not len(found):
        work.monitor.note("the teacher has no label of a validation image: its accuracy is unknown")
    metadata = {_LOST: json.dumps(counts)}
    write_table(work.path(MEASURED), found.replace_schema_metadata(metadata))
    return accuracy_of(found, len(val.classes), counts)


@contextmanager
def _measuring(teacher: Teacher, work: Work) -> Iterator[list[Process]]:
    val, view = work.images("data/val.arrow"), test_view(work)

    def predictions_of(good: Sequence[Item], logits: np.ndarray) -> pa.Table:
        labels = np.array([label for _, _, label in good])
        return predictions([image_id for image_id, _, _ in good], labels, logits)

    def process(answer: Answers, rows: range, advance: Advance) -> dict[str, pa.Table]:
        # There is one view: the class travels as its number.
        items = items_of(val, rows, val.labels[rows.start : rows.stop].tolist())
        empty = PREDICTIONS.empty_table()
        found, rejected = collect(answer(items), predictions_of, empty, advance)
        return {"predictions": found, "rejected": rejected}

    with engines_of(work, teacher.size) as engines:
        yield [partial(process, teacher.answers(engine, view)) for engine in engines]


def test_view(work: Work) -> TestView:
    """How the teacher sees the images of the pool; each of several as its own settings say."""
    network = work.recipe.network
    return TestView(preprocess=network.preprocess if network else Preprocess())


@contextmanager
def engines_of(work: Work, size: int) -> Iterator[list[Engine]]:
    """Engines for a network of `size` bytes, a process and a share of the machine each; they stay
    for the stage that follows.

    Two a GPU, of which one computes while the other is given its next batch; else one a core as far
    as memory goes, each with one thread: that is faster than one process with as many threads, and
    the labels are the same on any number of cores.
    """
    run_time, config = work.recipe.run_time, work.recipe.label
    if gpus := min(num_gpus(), run_time.devices):
        num = _PER_GPU * gpus
        share = max(1, max_threads() // num)
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        fitting = memory // 2 // (_PROCESS + _COPIES * size)
        num, share = max(1, min(fitting, max_threads())), 1
        if num < max_threads():
            work.monitor.note(
                f"the teacher in {counted(num, 'process')}: half of the memory holds no more"
            )
    engine = Engine("fp32", share, max(1, run_time.workers // num), config.batch_size)
    with work.engines.take(num, max(1, gpus)) as processes:
        if not all(process.is_started for process in processes):
            work.monitor.note(f"the teacher starts in {counted(num, 'process')}")
        yield [replace(engine, process=process) for process in processes]
    if text := engine.pace.text(engine.workers * num, "the teacher", num):
        work.monitor.note(text)


def _adopted(work: Work, number: int, config: AnyTeacher) -> Member:
    """Teacher `number` with its files copied, named relative to the stage's folder."""
    folder, classes = Path(f"model/{number}"), work.images("data/val.arrow").classes
    work.path(str(folder)).mkdir(parents=True)
    if isinstance(config, LabelFileConfig):
        target = folder / "labels.parquet"
        num_rows = import_labels(config, classes, work.path(str(target)))
        work.monitor.note(f"teacher {config.labels}: {counted(num_rows, 'image')}")
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
    source = Path(config.onnx)
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
        order=config.order(classes),
    )
    if config.classes is None:
        work.monitor.note(f"teacher {source}: no class names; its order is taken for the data's")
    session = found.within(work.directory).session(Engine())
    work.monitor.note(
        f"teacher {source}: onnxruntime's {session.provider}, from {session.inputs[0]} to "
        f"{session.outputs[0]}"
    )
    return found
