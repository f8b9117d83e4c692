"""label and views: the teacher's soft labels of pool images, and of augmented training images.

The teacher runs in child processes: Paddle's inference engine would give later trainings of this
process other bits.

Files: shard-00000.labels.parquet ... (ppcls_core.labels.shard), rejected.parquet (image_id, reason,
detail: images that could not be read any more, once a view), engine.json (precision in which the
teacher ran; top1 and kl: how bf16 agrees with fp32), source.json (ppcls_core.labels.labeller).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_json, write_table
from data_catalog.images.columns import REJECTED
from ppcls_core.data.views import AugmentedViews, TestView, Views
from ppcls_core.inference.predictor import Precision
from ppcls_core.labels import labeller
from ppcls_core.labels.shard import Header, Origin, write_labels
from ppcls_core.labels.teacher import Agreement, Predict, Teacher, fastest_precision
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.shards import Advance, Process, read_shards, run_shards, shard_files
from tasks.run.processes import Make, children
from tasks.run.stage import Outcome, Work

ENGINE, KINDS = "engine.json", ("labels", "rejected")
NUM_COMPARED = 256  # images, of bf16 with fp32


@dataclass(frozen=True)
class Resources:
    """Share of the machine that a child process has, and images that it runs at once."""

    threads: int  # of the inference engine on a CPU
    workers: int  # threads that load images
    batch_size: int


def label_pool(work: Work) -> Outcome:
    """The labels of every kept pool image, as in a test (view 0)."""
    outcome = _label(work, "dedup/kept.arrow", pool_view(work), range(1))
    if not outcome.counts["in"]:
        work.monitor.note("no pool image is left to label: students see the labelled images alone")
    return outcome


def label_views(work: Work) -> Outcome:
    """The labels of `label.views` augmented views of the student's images.

    A student with `teacher: replay` is trained from them, in epoch e on view e modulo
    `label.views`, augmented as `distill` says. Without views the stage makes nothing.
    """
    numbers = range(1, work.recipe.label.views + 1)
    return _label(work, "select/train.arrow", augmented_views(work), numbers)


def pool_view(work: Work) -> TestView:
    """How the teacher sees the images of the pool."""
    return TestView(preprocess=work.recipe.teacher.preprocess)


def augmented_views(work: Work) -> AugmentedViews:
    """The views that the distillation sees in its first `label.views` epochs.

    The teacher sees the same crops at its own resolution.
    """
    config = work.recipe.distill
    return AugmentedViews(
        augmentation=config.augmentation,
        image_size=work.recipe.teacher.image_size,
        root_seed=seed_of(work.recipe.seed, "distill"),
        num=max(1, work.recipe.label.views),
    )


def _label(work: Work, name: str, views: Views, numbers: range) -> Outcome:
    """Label the views `numbers` of every image of `stage/file`, shard by shard."""
    total = len(work.images(name)) * len(numbers)
    num_shards = _label_shards(work, name, views, numbers) if total else 0
    rejected = read_shards(work.directory, "rejected", num_shards, REJECTED)
    write_table(work.path("rejected.parquet"), rejected)
    about = [ENGINE, labeller.FILE] if total else []
    return Outcome(
        files=["rejected.parquet", *about, *shard_files(num_shards, KINDS)],
        counts={
            "in": total,
            "out": total - rejected.num_rows,
            "rejected: unreadable": rejected.num_rows,
        },
        metrics={"shards": num_shards},
        volatile=[labeller.FILE],  # it says where things lie on this machine
    )


def _label_shards(work: Work, name: str, views: Views, numbers: range) -> int:
    found, per_image = work.images(name), len(numbers)

    def items(rows: range) -> list[labeller.Item]:
        # A part at once: looked up one by one, 14 million images take a quarter of an hour.
        places = [divmod(row, per_image) for row in rows]
        images = found.take([row for row, _ in places])
        wanted = (numbers[number] for _, number in places)
        return list(zip(images.ids, images.sources(), wanted, strict=True))

    def shards_by(make: Make) -> Process:
        return lambda rows, advance: make(items(rows), advance)

    teacher, images, roots = teacher_of(work), work.input(name), work.roots()
    source = labeller.LabelSource(teacher=teacher, views=views, images=images, roots=roots)
    labeller.write_source(work.directory, source)
    total = len(found) * per_image
    precision = _precision(work, views, items(range(0, total, -(-total // NUM_COMPARED))))
    config = work.recipe.label
    origin = origin_of(work, views)
    header = Header(origin, work.num_classes(), config.encoding, precision, config.k)
    arguments = (teacher, header, views, resources_of(work))
    with children(work.recipe.run_time.devices, _start_labelling, *arguments) as makers:
        processes = map(shards_by, makers)
        size, writers = work.recipe.shard_size, {"labels": write_labels}
        return run_shards(work.directory, total, size, work.monitor, *processes, writers=writers)


def origin_of(work: Work, views: Views) -> Origin:
    """The fingerprints of what labels of `views` depend on."""
    weights = work.inputs["teacher"].files["model.pdparams"].sha256
    return labeller.fingerprints(teacher_of(work), weights, views)


def teacher_of(work: Work) -> Teacher:
    """The teacher, as a child process opens it."""
    config, weights = work.recipe.teacher, work.inputs["teacher"].path("model.pdparams")
    size, num_classes = config.image_size, work.num_classes()
    return Teacher(model=config.model, num_classes=num_classes, weights=weights, image_size=size)


def _precision(work: Work, views: Views, sample: Sequence[labeller.Item]) -> Precision:
    """Precision in which the teacher runs, chosen on `sample` when the stage first began."""
    path = work.path(ENGINE)
    if work.recipe.label.precision == "fp32":
        write_json(path, {"precision": "fp32", "top1": None, "kl": None})
    elif not path.exists():
        with children(1, _start_comparing, teacher_of(work), views, resources_of(work).threads) as (
            compare,
        ):
            (row,) = compare(sample, lambda: None)["agreement"].to_pylist()
        if refused := row.pop("refused"):
            work.monitor.note(f"teacher in fp32: the engine refuses bf16 ({refused})")
        write_json(path, row)
        if row["top1"] is not None:
            work.monitor.note(
                f"teacher in {row['precision']}: bf16 gives the class of fp32 to {row['top1']:.1%} "
                f"of {len(sample)} images, KL {row['kl']:.1e}"
            )
    return "bf16" if read_json(path)["precision"] == "bf16" else "fp32"


def resources_of(work: Work) -> Resources:
    """The share of each child where there is one a device."""
    run_time, threads = work.recipe.run_time, int(os.environ["OMP_NUM_THREADS"])
    threads, workers = (max(1, n // run_time.devices) for n in (threads, run_time.workers))
    return Resources(threads, workers, work.recipe.label.batch_size)


def _start_comparing(number: int, teacher: Teacher, views: Views, threads: int) -> Make:
    def compare(sample: Sequence[labeller.Item], advance: Advance) -> dict[str, pa.Table]:
        ((_, pixels, _),) = labeller.batches(sample, views, len(sample), threads)

        def predictor(precision: Precision) -> Predict:
            return teacher.predictor(precision, threads)

        precision, found = fastest_precision(predictor, pixels)
        top1, kl = (found.top1, found.kl) if isinstance(found, Agreement) else (None, None)
        refused = str(found) if isinstance(found, UserError) else None
        columns = {"precision": precision, "top1": top1, "kl": kl, "refused": refused}
        return {"agreement": pa.table({name: [value] for name, value in columns.items()})}

    return compare


def _start_labelling(
    number: int, teacher: Teacher, header: Header, views: Views, resources: Resources
) -> Make:
    precision = "bf16" if header.precision == "bf16" else "fp32"
    predict = teacher.predictor(precision, resources.threads, number)

    def make(items: Sequence[labeller.Item], advance: Advance) -> dict[str, pa.Table]:
        loaded = labeller.batches(items, views, resources.batch_size, resources.workers)
        labels, rejected = labeller.label(loaded, views, predict, header, advance)
        return {"labels": labels, "rejected": rejected}

    return make
