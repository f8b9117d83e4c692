"""label and views: the teacher's soft labels of pool images, and of those that students see.

Files: shard-00000.labels.parquet ... (ppcls_core.labels.shard), rejected.parquet (image_id, reason,
detail: images that could not be read any more, once a view; `unlabelled`: which a label file
lacks), engine.json (precision in which the teacher ran; top1 and kl: how 16 bits agree with fp32),
source.json (ppcls_core.labels.labeller); of views, where they add to the labels of the stage label,
beside.json (the digest of those).
"""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_json, write_table
from data_catalog.images.columns import REJECTED, Images
from ppcls_core.data.lost import reason_counts, rejected_counts
from ppcls_core.data.views import AugmentedViews, Views
from ppcls_core.inference.predictor import Precision
from ppcls_core.labels import labeller
from ppcls_core.labels.shard import Header, Origin, is_labelled, write_labels
from ppcls_core.labels.store import LabelStore
from ppcls_core.labels.teacher import (
    Agreement,
    Answers,
    Batches,
    Item,
    NetworkTeacher,
    Teacher,
    fastest_precision,
    items_of,
)
from ppcls_core.runtime.processes import ChildDied
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.shards import Advance, Process, SharedProgress, read_shards, shard_files
from ppcls_core.runtime.threads import map_threads
from tasks.run.counts import NUM_TAKEN_OVER, TAKEN_OVER
from tasks.run.processes import Opening, make_shards
from tasks.run.stage import Outcome, Work
from tasks.stages.known_labels import KnownLabels, find_known
from tasks.stages.teachers import engines_of, teacher_of, test_view

ENGINE, KINDS = "engine.json", ("labels", "rejected")
BESIDE = "beside.json"
_PRECISIONS: dict[str, Precision] = {name: name for name in get_args(Precision)}
NUM_COMPARED = 256  # images, of 16 bits with fp32
COMPARED = "images in "  # unit of their progress, with the precision behind it


def label_pool(work: Work) -> Outcome:
    """The labels of every kept pool image, as in a test (view 0)."""
    outcome = _label(work, _Chosen("dedup/kept.arrow"), test_view(work), range(1))
    if not outcome.counts["in"]:
        work.monitor.note("no pool image is left to label: students see the labelled images alone")
    return outcome


def label_views(work: Work) -> Outcome:
    """The labels that a student with `teacher: replay` needs beside those of the pool.

    Of `label.views` augmented views of each of its images, and it is trained in epoch e on view e
    modulo `label.views`, augmented as `distill` says. Or, without views, of those images that the
    stage `label` has not labelled, as in a test; a label then serves all views of its image.
    Nothing where no teacher is replayed.
    """
    name, num_views, label = "select/train.arrow", work.recipe.label.views, work.inputs["label"]
    if num_views or not work.recipe.is_replayed:
        return _label(work, _Chosen(name), replayed_views(work), range(1, num_views + 1))
    without = label.directory if label.metrics["shards"] else None
    outcome = _label(work, _Chosen(name, without), test_view(work), range(1))
    # What reads this stage's files then depends on the labels of the pool too.
    write_json(work.path(BESIDE), {"label": label.digest_of("shard-*.labels.parquet")})
    return replace(outcome, files=[*outcome.files, BESIDE])


def replayed_views(work: Work) -> Views:
    """The views whose labels are replayed."""
    return augmented_views(work) if work.recipe.label.views else test_view(work)


def replayed_labels(work: Work) -> LabelStore:
    """The labels that `label_views` says. Raises UserError: of another teacher, seed or code."""
    views, label = work.inputs["views"], work.inputs["label"]
    parts = [views] if work.recipe.label.views else [label, views]
    folders = [part.directory for part in parts if part.metrics["shards"]]
    return LabelStore.open(*folders, origin=origin_of(work, replayed_views(work)))


def augmented_views(work: Work) -> AugmentedViews:
    """The views that the distillation sees in its first `label.views` epochs.

    A teacher sees the same crops at its own resolution.
    """
    config, network = work.recipe.distill, work.recipe.network
    return AugmentedViews(
        augmentation=config.augmentation,
        image_size=network.image_size if network else config.image_size,
        root_seed=seed_of(work.recipe.seed, "distill"),
        num=max(1, work.recipe.label.views),
    )


@dataclass(frozen=True)
class _Chosen:
    """The images of `stage/file` that have no labels in `without`; every host finds the same."""

    name: str
    without: Path | None = None

    def images(self, work: Work) -> Images:
        images = work.images(self.name)
        if self.without is None:
            return images
        return images.take(np.flatnonzero(~is_labelled(images.table["image_id"], self.without)))


def _label(work: Work, chosen: _Chosen, views: Views, numbers: range) -> Outcome:
    """Label the views `numbers` of every chosen image, shard by shard."""
    found = chosen.images(work)
    total = len(found) * len(numbers)
    earlier, num_known = _find_known(work, found, views, numbers) if total else (None, 0)
    opening = partial(_labelling, chosen, views, numbers, earlier)
    num_shards = _label_shards(work, chosen, views, total, opening) if total else 0
    rejected = read_shards(work.directory, "rejected", num_shards, REJECTED)
    write_table(work.path("rejected.parquet"), rejected)
    about = [ENGINE, labeller.FILE] if total else []
    reasons = reason_counts(rejected)
    if total and reasons.get("unlabelled") == total and not _has_labels(work):
        first = found.ids[0]
        raise UserError(
            f"the teacher's label file has none of the {total:,} images of {chosen.name}, the "
            f"first: {first}; its image_id must be written like this"
        )
    return Outcome(
        files=["rejected.parquet", *about, *shard_files(num_shards, KINDS)],
        counts={
            "in": total,
            "out": total - rejected.num_rows,
            **rejected_counts(reasons),
        },
        metrics={
            "shards": num_shards,
            TAKEN_OVER: str(earlier or ""),
            NUM_TAKEN_OVER: num_known,
        },
        volatile=[labeller.FILE],  # it says where things lie on this machine
    )


def _has_labels(work: Work) -> bool:
    """Whether the stage `label` has already found some."""
    return "label" in work.inputs and work.inputs["label"].counts["out"] > 0


def _find_known(
    work: Work, images: Images, views: Views, numbers: range
) -> tuple[Path | None, int]:
    """Whose labels are taken over, and how many, which is told."""
    chosen = read_json(work.path(ENGINE))  # by a run that was interrupted
    precision = chosen["precision"] if chosen else None
    found = find_known(work, origin_of(work, views), images, numbers, precision)
    if found[0]:
        total = len(images) * len(numbers)
        work.monitor.note(f"{found[1]:,} of {total:,} labels are taken over from {found[0]}")
    return found


def _label_shards(work: Work, chosen: _Chosen, views: Views, total: int, opening: Opening) -> int:
    images, roots = work.input(chosen.name), work.roots()
    source = labeller.LabelSource(teacher=teacher_of(work), views=views, images=images, roots=roots)
    labeller.write_source(work.directory, source)
    return make_shards(work, ".", total, opening, {"labels": write_labels})


@contextmanager
def _labelling(
    chosen: _Chosen, views: Views, numbers: range, earlier: Path | None, work: Work
) -> Iterator[list[Process]]:
    """What labels rows, an engine each, or takes them over from the result in the folder `earlier`.
    The first to open it chooses the teacher's precision."""
    found, teacher, origin = chosen.images(work), teacher_of(work), origin_of(work, views)
    known = KnownLabels.of(earlier, origin, found, numbers) if earlier else None
    num_rows, per_image, config = len(found) * len(numbers), len(numbers), work.recipe.label

    def items(rows: range) -> list[Item]:
        places = [divmod(row, per_image) for row in rows]
        return items_of(found, [row for row, _ in places], (numbers[n] for _, n in places))

    is_known = known.is_known if known else np.zeros(len(found), bool)
    with nullcontext([]) if is_known.all() else engines_of(work, teacher.size) as engines:

        def answers_in(precision: Precision) -> list[Answers]:
            chosen = [replace(engine, precision=precision) for engine in engines]
            return [teacher.answers(engine, views) for engine in chosen]

        def compare() -> dict[str, Any]:
            sample = items(compared(num_rows))
            batch = config.batch_size
            share = -(-len(sample) // (len(engines) * batch)) * batch  # whole batches each
            parts = [sample[start : start + share] for start in range(0, len(sample), share)]

            def logits_in(precision: Precision) -> np.ndarray:
                progress = SharedProgress(work.monitor, 0, len(sample), f"{COMPARED}{precision}")

                def logits(answer: Answers, part: list[Item]) -> list[np.ndarray]:
                    found: list[np.ndarray] = []
                    for good, own, bad in answer(part):
                        progress.advance(len(good) + len(bad))
                        found.append(own)
                    return found

                # The monitor may report to whom this thread's context says, as Prefect's does.
                tasks = [
                    (copy_context(), partial(logits, answer, part))
                    for answer, part in zip(answers_in(precision), parts, strict=False)
                ]
                found = map_threads(lambda task: task[0].run(task[1]), tasks, len(engines))
                return np.concatenate([own for part in found for own in part])

            return _compared(work, logits_in, len(sample))

        precision = _precision(work, teacher, earlier, compare)
        header = Header(origin, work.num_classes(), config.encoding, precision, config.k)

        def process(answer: Answers, rows: range, advance: Advance) -> dict[str, pa.Table]:
            wanted = items(rows)
            new = [i for i, row in zip(wanted, rows, strict=True) if not is_known[row // per_image]]
            labels, rejected = labeller.label(answer(new), views, header, advance)
            if known:
                advance(len(wanted) - len(new))
                labels = known.added(wanted, labels, new)
            return {"labels": labels, "rejected": rejected}

        yield [partial(process, answer) for answer in answers_in(precision) or [_none]]


def _none(items: Sequence[Item]) -> Batches:
    """The answers where there is nothing to ask."""
    assert not items
    return iter(())


def compared(num_rows: int) -> range:
    """Those of so many rows in which 16 bits are compared with fp32: NUM_COMPARED at the most."""
    return range(0, num_rows, -(-num_rows // NUM_COMPARED))


def origin_of(work: Work, views: Views) -> Origin:
    """The fingerprints of what labels of `views` depend on."""
    made = work.inputs["teacher"]

    def digest(path: Path) -> str:
        return made.files[path.relative_to(made.directory).as_posix()].sha256

    return labeller.fingerprints(teacher_of(work), digest, views)


def _precision(
    work: Work, teacher: Teacher, earlier: Path | None, compare: Callable[[], dict[str, Any]]
) -> Precision:
    """Precision in which the teacher runs, chosen by what `compare` gives when the stage first
    began; that of the labels of `earlier` that are taken over; for the views that of the labels."""
    path, chosen = work.path(ENGINE), work.inputs.get("label")
    if chosen and ENGINE in chosen.files:
        write_json(path, read_json(chosen.path(ENGINE)))
    elif work.recipe.label.precision == "fp32" or not isinstance(teacher, NetworkTeacher):
        write_json(path, {"precision": "fp32", "top1": None, "kl": None})
    elif not path.exists():
        write_json(path, read_json(earlier / ENGINE) if earlier else compare())
    return _PRECISIONS[read_json(path)["precision"]]


def _compared(
    work: Work, logits_in: Callable[[Precision], np.ndarray], num_images: int
) -> dict[str, Any]:
    """The faster precision by the logits for `num_images` images, as ENGINE has it."""
    try:
        precision, found = fastest_precision(logits_in)
    except ChildDied as died:
        raise UserError(
            f"{died}. It held the teacher in two precisions, to compare them: where memory is too "
            "small for that, set `label.precision: fp32`"
        ) from None
    top1, kl = (found.top1, found.kl) if isinstance(found, Agreement) else (None, None)
    if isinstance(found, UserError):
        work.monitor.note(f"teacher in fp32: the engine refuses 16 bits ({found})")
    elif found:
        work.monitor.note(
            f"teacher in {precision}: 16 bits give fp32's class to {100 * found.top1:.1f} % "
            f"of {num_images} images, KL {found.kl:.1e}"
        )
    return {"precision": precision, "top1": top1, "kl": kl, "images": num_images}
