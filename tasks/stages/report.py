"""report: one self-contained page that says what the pipeline did and gained, and a model card.

Files: report.html, model_card.md, run.json (the settings, and each stage's key, counts and seconds:
what `ssld compare` reads).
"""
# pyright: reportAttributeAccessIssue=false

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from data_catalog.base.files import read_json, write_bytes, write_json
from data_catalog.base.words import counted
from data_catalog.images.columns import together
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.dedup.result.gallery import DuplicatePair
from ppcls_core.dedup.result.gallery import duplicate_pairs as drawn
from ppcls_core.engine.config import Probe
from ppcls_core.inference.exported import Exported
from ppcls_core.labels.shard import open_shard
from ppcls_core.models.weights.files import published_here
from ppcls_core.report.answers import Answers, WrongImage
from ppcls_core.report.card import DataRow, ProvenanceRow, model_card
from ppcls_core.report.figures import thumbnail
from ppcls_core.report.model import (
    AccuracyRow,
    ClassSample,
    CleanRow,
    CountRow,
    Curve,
    Headline,
    Histogram,
    LeftOut,
    Overlap,
    Report,
    SelectionSummary,
    Series,
    StageRow,
)
from ppcls_core.report.page import MAX_CLASSES, render
from ppcls_core.report.search import planted_rows
from ppcls_core.runtime.shards import shard_file
from tasks.recipe import TRAINED, Recipe, TeacherConfig
from tasks.run.counts import TAKEN_OVER, has_pool, left_out, shown_counts
from tasks.run.stage import Outcome, Work
from tasks.run.store import RUN, Result
from tasks.stages.searching import labelled_sets
from tasks.steps import unequal_steps

CARD = "model_card.md"
_BINS = 40
NUM_BEST, NUM_BORDERLINE, THUMBNAIL = 6, 3, 112
LEAST_SECONDS = 0.5  # for which a rate is given
NUM_WRONG = 24  # images that the student has wrong and the teacher right


def run(work: Work) -> Outcome:
    """Fill the report's content from the manifests and draw it."""
    chosen, num_unreadable = selection(work)
    unreadable = "picture of a selected image that cannot be read any more"
    lost = [*left_out(work.inputs.values()), LeftOut("report", unreadable, num_unreadable)]
    dedup = work.inputs["dedup"].metrics
    settings = work.recipe.model_dump(mode="json", exclude={"run_time"})
    if file := work.recipe.dedup.reviewed:  # no setting of the stages: what is in it decides
        digest = work.inputs["dedup"].inputs["dedup.reviewed"]
        settings["dedup"]["reviewed"] = f"{file.name} (sha256 {digest[:16]})"
    report = Report(
        title=work.recipe.name,
        created_utc=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        headline=_headline(work),
        stages=tuple(stage_row(result, work.inputs) for result in work.inputs.values()),
        accuracies=accuracies(work.inputs["evaluate"]),
        answers=answers(work),
        curves=tuple(curve(work.inputs[name]) for name in TRAINED),
        duplicates=duplicate_pairs(work),
        overlap=overlap(work),
        decisions=dedup["decisions"],
        planted=planted_rows(dedup["planted"]),
        canaries=planted_rows(dedup["canaries"]),
        too_few_features=dedup["too_few_features"],
        val_too_few_features=dedup["val_too_few_features"],
        val_rejected=dedup["val_rejected"],
        selection=chosen,
        reconciliation=tuple(count_rows(work.inputs)),
        left_out=tuple(row for row in lost if row.number),
        settings_yaml=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        versions=work.inputs["evaluate"].record["versions"],
        card=CARD,
        files={
            name: str(r.directory.relative_to(r.directory.parent.parent))
            for name, r in work.inputs.items()
        },
    )
    write_bytes(work.path("report.html"), render(report).encode())
    write_bytes(work.path(CARD), _card(work, report).encode())
    stages = {
        name: {
            "key": result.key,
            "counts": shown_counts(result, work.inputs),
            "seconds": result.record["seconds"],
        }
        for name, result in work.inputs.items()
    }
    exported = work.inputs["export"].metrics["stage"]
    run_record = {"settings": settings, "written": report.created_utc, "exported": exported}
    write_json(work.path(RUN), run_record | {"stages": stages})
    files = ["report.html", CARD, RUN]
    return Outcome(files=files, volatile=files)


def _card(work: Work, report: Report) -> str:
    """Markdown about the exported model: its data, contamination, teacher, recipe, provenance."""
    done, names = work.inputs, dict[str, list[str]]()
    sets = {"train": "overlap", "teacher": "overlap", "val": "data", "pool": "data"}
    for name, stage in sets.items():
        names.setdefault(done[stage].files[f"{name}.arrow"].sha256, []).append(name)
    if not report.headline.has_pool:
        names = {digest: [n for n in each if n != "pool"] for digest, each in names.items()}
    data = [
        DataRow(" and ".join(each), len(work.images(f"{sets[each[0]]}/{each[0]}.arrow")), digest)
        for digest, each in names.items()
        if each
    ]
    provenance = [
        ProvenanceRow(name, result.key, result.digest, result.record["seconds"])
        for name, result in done.items()
    ]
    sidecar = Exported(done["export"].directory).sidecar
    return model_card(report, sidecar, data, teacher_origin(work), provenance)


def teacher_origin(work: Work) -> str:
    """Sentences, in Markdown, on how the teacher came to be: which weights, and on which images it
    was trained in this run."""
    config, made = work.recipe.network, work.inputs["teacher"]
    if config is None:
        teachers = list(work.recipe.teachers.values())
        titles = [f"{t.title} (weight {t.weight or 1:g})" for t in teachers]
        what, files = f", {teachers[0].title},", "its files"
        if len(teachers) > 1:
            mean = f"the mean of the probabilities of {', '.join(titles)}"
            what, files = f" is {mean}. It", "their files"
        return (
            f"The teacher{what} was given, and nothing of it was trained in this run; sha256 over "
            f"{files}: `{made.digest_of('model*')}`."
        )
    digest = made.files["model.pdparams"].sha256
    return f"The teacher, {config.model.name}, {_made(work, config)} sha256 of it: `{digest}`."


def _made(work: Work, config: TeacherConfig) -> str:
    """How the teacher `config` was made, a sentence without its subject."""
    train, weights = config.train, _given_weights(config, work.inputs["teacher"])
    if train is None:
        return f"has {weights} as they are: nothing of it was trained in this run."
    files = work.inputs["overlap"].files
    is_train = files["teacher.arrow"].sha256 == files["train.arrow"].sha256
    images = counted(len(work.images("overlap/teacher.arrow")), "image")
    images = f"the {images} of `{'train' if is_train else 'teacher'}`"
    if isinstance(train, Probe):
        return (
            f"has {weights}, but for its classifier, which was fitted in this run to the labels of "
            f"{images} (a probe: logistic regression)."
        )
    how = f"on {images}, {counted(train.epochs, 'epoch')} at {train.image_size} pixels"
    if config.weights is None:
        return f"was trained in this run from random weights {how}."
    return f"has {weights}, all of which were trained further in this run {how}."


def _given_weights(config: TeacherConfig, made: Result) -> str:
    """The weights that were given for the teacher, in words; "" without any."""
    if config.weights is None:
        return ""
    path, name = Path(config.weights), config.model.name
    is_published = published_here(name) == path
    kind = "the weights published under this name" if is_published else "the weights given"
    return f"{kind} (`{path.name.replace('`', '')}`, sha256 `{made.inputs['teacher.weights']}`)"


def stage_row(result: Result, done: Mapping[str, Result]) -> StageRow:
    """The row of a finished stage, one of `done`, in the table of stages."""
    counts, seconds = shown_counts(result, done), result.record["seconds"]
    num_images = counts.get("in") or sum(counts.values())
    return StageRow(
        name=result.stage,
        finished=result.record.get("finished", "").replace("T", " ").rstrip("Z"),
        images_in=num_images or None,
        images_out=counts.get("kept", counts.get("out")),
        seconds=seconds,
        images_per_second=_rate(result, num_images, seconds),
        key=result.key[:12],
    )


def _rate(result: Result, images: int, seconds: float) -> float | None:
    """Images a second; a training reads in each epoch as many as fill its batches. None of what
    took no time to speak of; of a search or labels that were taken over; and of data, whose images
    are read for its key, before its time begins."""
    if result.stage == "data" or seconds < LEAST_SECONDS or result.metrics.get(TAKEN_OVER):
        return None
    settings = result.settings.get(result.stage, {})
    if result.stage == "teacher":  # several are a list
        settings = settings.get("train") if isinstance(settings, Mapping) else None
    if settings and "epochs" in settings:
        batch = settings["batch_size"]
        images = settings["epochs"] * (images // batch * batch)
    return images / seconds if images else None


def accuracies(evaluate: Result) -> tuple[AccuracyRow, ...]:
    """The accuracy table."""
    rows = read_json(evaluate.path("accuracy.json"))
    return tuple(AccuracyRow(**{k: v for k, v in row.items() if k != "rejected"}) for row in rows)


def answers(work: Work) -> Answers:
    """The answers of each model on the validation images, with pictures of those that the student
    has wrong and the teacher right."""
    val, rows = work.images("data/val.arrow"), work.table("evaluate/predictions.parquet")
    ids = rows["image_id"].unique()
    labels = val.labels[pc.index_in(ids, val.table["image_id"]).to_numpy()]
    predicted, probability = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for model in rows["model"].unique().to_pylist():
        own = rows.filter(pc.equal(rows["model"], model))
        places = pc.index_in(ids, own["image_id"])
        predicted[model] = own["predicted"].take(places).fill_null(-1).to_numpy()
        probability[model] = own["probability"].take(places).fill_null(0).to_numpy()
    names = tuple(ids.to_pylist())
    student = work.inputs["export"].metrics["stage"]
    found = Answers(val.classes, names, labels, predicted, probability, student)
    chosen = found.student_alone_wrong()[:NUM_WRONG].tolist()
    small = _thumbnails(work, "data/val.arrow", {names[row] for row in chosen})
    wrong = tuple(
        WrongImage(
            image_id=names[row],
            label=val.classes[labels[row]],
            student=val.classes[predicted[student][row]],
            student_probability=float(probability[student][row]),
            teacher_probability=float(probability["teacher"][row]),
            picture=small.get(names[row]),
        )
        for row in chosen
    )
    return replace(found, wrong=wrong)


def curve(result: Result) -> Curve:
    """Loss, learning rate and validation accuracy of a training stage."""
    rows = read_json(result.path("history.json"))

    def series(name: str) -> Series:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        return Series(tuple(x for x, _ in points), tuple(y for _, y in points))

    return Curve(result.stage, series("loss"), series("lr"), series("top1"))


def duplicate_pairs(work: Work) -> tuple[DuplicatePair, ...]:
    """Pairs of the pool to look at, those that nobody planted before the others."""
    chosen = work.table("dedup/gallery.parquet")
    pool, val = work.images("data/pool.arrow"), work.images("data/val.arrow")
    return drawn(chosen, pool.find, val.find, work.recipe.dedup)


def labelled_pairs(work: Work) -> tuple[DuplicatePair, ...]:
    """Pairs of the labelled images to look at."""
    chosen = work.table("overlap/gallery.parquet")
    labelled, val = together(*labelled_sets(work).values()), work.images("data/val.arrow")
    return drawn(chosen, labelled.find, val.find, work.recipe.dedup)


def overlap(work: Work) -> Overlap:
    """The labelled images that show a validation image."""
    found = work.inputs["overlap"].metrics
    return Overlap(
        num_labelled=found["labelled"],
        num_val=found["val"],
        removed=found["removed"],
        pairs=labelled_pairs(work),
        rows=clean_accuracies(work.inputs),
    )


def clean_accuracies(done: Mapping[str, Result]) -> tuple[CleanRow, ...]:
    """Each model's accuracy without the validation images that a labelled image shows; nothing
    where there are none."""
    shown = pq.read_table(done["overlap"].path("pairs.parquet"), columns=["val_id"])["val_id"]
    answers = pq.read_table(done["evaluate"].path("predictions.parquet"))
    rows = []
    for model in answers["model"].unique().to_pylist() if len(shown) else ():
        own = answers.filter(pc.equal(answers["model"], model))
        is_right = own["rank"].to_numpy() < 1
        clean = pc.invert(pc.is_in(own["image_id"], shown.combine_chunks())).to_numpy()
        num = int(clean.sum())
        top1 = float((is_right & clean).sum() / max(num, 1))
        rows.append(CleanRow(model, float(is_right.mean()), top1, num))
    return tuple(rows)


def selection(work: Work) -> tuple[SelectionSummary, int]:
    """(images selected and the teacher's entropies, pictures that cannot be read any more)."""
    policy = work.recipe.select.policy
    if policy == "none" or not has_pool(work.inputs["data"]):
        return SelectionSummary(policy), 0
    rows = work.table("select/selection.parquet")
    scores, _ = np.histogram(rows["score"].to_numpy(), _BINS, (0, 1))
    samples, num_unreadable = class_samples(work, rows)
    found = SelectionSummary(
        policy=policy,
        classes=samples,
        scores=_as_histogram(scores, 1),
        entropies=entropies(work.inputs["label"], work.num_classes()),
    )
    return found, num_unreadable


def class_samples(work: Work, rows: pa.Table) -> tuple[tuple[ClassSample, ...], int]:
    """(a sample of each class of the selection's `rows`, pictures that cannot be read any more).

    The classes that the page shows have pictures.
    """
    classes, k = work.images("data/train.arrow").classes, work.recipe.select.k
    bounds = np.searchsorted(rows["class_id"].to_numpy(), np.arange(len(classes) + 1)).tolist()
    parts = [rows.slice(first, end - first) for first, end in pairwise(bounds)]
    ids = [part["image_id"].to_pylist() for part in parts[:MAX_CLASSES]]
    best = [part[:NUM_BEST] for part in ids]
    borderline = [part[NUM_BEST:][-NUM_BORDERLINE:] for part in ids]
    wanted = {i for part in best + borderline for i in part}
    thumbnails = _thumbnails(work, "dedup/kept.arrow", wanted)

    def shown(groups: list[list[str]], c: int) -> tuple[np.ndarray, ...]:
        return tuple(thumbnails[i] for i in groups[c] if i in thumbnails) if c < len(groups) else ()

    samples = tuple(
        ClassSample(
            name=name,
            num_selected=len(parts[c]),
            wanted=k,
            lowest_score=parts[c]["score"][-1].as_py() if len(parts[c]) else None,
            best=shown(best, c),
            borderline=shown(borderline, c),
        )
        for c, name in enumerate(classes)
    )
    return samples, len(wanted) - len(thumbnails)


def entropies(label: Result, num_classes: int) -> Histogram:
    """Entropies of the teacher's probabilities, in nats, for each image as in a test (view 0)."""
    highest = max(math.log(num_classes), 1e-6)
    counts = np.zeros(_BINS, np.int64)
    for number in range(label.metrics["shards"]):
        shard = open_shard(label.path(shard_file(number, "labels")))
        for batch in shard.batches(["view", "entropy"]):
            values = batch["entropy"].to_numpy()[batch["view"].to_numpy() == 0]
            counts += np.histogram(np.clip(values, 0, highest), _BINS, (0, highest))[0]
    return _as_histogram(counts, highest)


def _as_histogram(counts: np.ndarray, highest: float) -> Histogram:
    """`counts` of values in bins of equal width from 0 to `highest`."""
    edges = np.linspace(0, highest, len(counts) + 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def count_rows(done: Mapping[str, Result]) -> list[CountRow]:
    """in = kept + duplicates + rejected, for the stages that sort images; without a pool none."""
    rows = []
    for name in ("dedup", "label", "select") if has_pool(done["data"]) else ():
        counts = done[name].counts
        rejected = sum(n for reason, n in counts.items() if reason.startswith("rejected"))
        kept = counts["kept"] if "kept" in counts else counts["out"]
        rows.append(CountRow(name, counts["in"], kept, counts.get("duplicates", 0), rejected))
    return rows


def _headline(work: Work) -> Headline:
    stage = work.inputs["export"].metrics["stage"]
    final = next(r for r in accuracies(work.inputs["evaluate"]) if r.label == stage)
    return Headline(
        top1=final.top1,
        gain=final.gain,
        gain_range=final.gain_range,
        stage=stage,
        images_labelled=work.inputs["label"].counts["out"],
        duplicates_removed=work.inputs["dedup"].counts["duplicates"],
        has_pool=has_pool(work.inputs["data"]),
        doubt=doubt_of(work.recipe, work.inputs),
    )


def doubt_of(recipe: Recipe, done: Mapping[str, Result]) -> str:
    """A sentence where the student and the baseline are not of as many steps; else ""."""
    baseline, distill = (
        config.epochs * (done[name].counts["in"] // config.batch_size)
        for name, config in (("baseline", recipe.baseline), ("distill", recipe.distill))
    )
    return unequal_steps(baseline, distill)


def _thumbnails(work: Work, name: str, ids: set[str]) -> dict[str, np.ndarray]:
    """Small pictures of those of these images that can be read."""
    small = {}
    for image_id, source in work.images(name).find(ids).items():
        with suppress(BadImage):
            small[image_id] = thumbnail(read_image(source), THUMBNAIL)
    return small
