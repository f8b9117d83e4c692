"""report: one self-contained page that says what the pipeline did and gained, and a model card.

Files: report.html, model_card.md.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import yaml

from data_catalog.base.files import read_json, write_bytes
from data_catalog.images.columns import Source
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.runtime.shards import shard_file
from tasks.run.stage import Outcome, Stage, Work
from tasks.run.store import Result
from tasks.stages.card import CARD, card
from tasks.stages.inputs import images, num_classes, table

if TYPE_CHECKING:
    from ppcls_core.dedup.result.gallery import DuplicatePair
    from ppcls_core.report.model import (
        AccuracyRow,
        ClassSample,
        CountRow,
        Curve,
        Headline,
        Histogram,
        Selection,
        StageRow,
    )

TRAINED = ("teacher", "baseline", "distill", "finetune", "fix")
_BINS = 40
NUM_BEST, NUM_BORDERLINE, THUMBNAIL = 6, 3, 112


def run(work: Work) -> Outcome:
    """Fill the report's content from the manifests and draw it."""
    from ppcls_core.report.model import Report
    from ppcls_core.report.page import render
    from ppcls_core.report.search import planted_rows

    last, dedup = work.inputs["evaluate"].record, work.inputs["dedup"].metrics
    report = Report(
        title=work.recipe.name,
        created_utc=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        headline=_headline(work),
        stages=tuple(stage_row(result) for result in work.inputs.values()),
        accuracies=accuracies(work.inputs["evaluate"]),
        curves=tuple(curve(work.inputs[name]) for name in TRAINED),
        duplicates=duplicate_pairs(work),
        planted=planted_rows(dedup["planted"]),
        canaries=planted_rows(dedup["canaries"]),
        too_few_features=dedup["too_few_features"],
        val_too_few_features=dedup["val_too_few_features"],
        val_rejected=dedup["val_rejected"],
        passed_over=dedup["passed_over"],
        selection=selection(work),
        reconciliation=tuple(count_rows(work.inputs)),
        rejected=_rejected(work.inputs["dedup"]),
        settings_yaml=_settings(work),
        versions=last["versions"],
        card=CARD,
        files={
            name: str(r.directory.relative_to(r.directory.parent.parent))
            for name, r in work.inputs.items()
        },
    )
    write_bytes(work.path("report.html"), render(report).encode())
    write_bytes(work.path(CARD), card(work, report).encode())
    files = ["report.html", CARD]
    return Outcome(files=files, volatile=files)


def stage_row(result: Result) -> StageRow:
    """What one stage did, as a row of the stages table."""
    from ppcls_core.report.model import StageRow

    counts, seconds = result.counts, result.record["seconds"]
    images = counts.get("in") or sum(counts.values())
    return StageRow(
        name=result.stage,
        status="done",
        images_in=images or None,
        images_out=counts.get("kept", counts.get("out")),
        seconds=seconds,
        images_per_second=_rate(result, images, seconds),
        key=result.key[:12],
    )


def _rate(result: Result, images: int, seconds: float) -> float | None:
    """Images a second; a training stage reads every image once an epoch."""
    epochs = result.settings.get(result.stage, {}).get("epochs")
    if result.stage == "teacher":
        epochs = (result.settings["teacher"]["train"] or {}).get("epochs")
    return images * (epochs or 1) / seconds if images and seconds else None


def accuracies(evaluate: Result) -> tuple[AccuracyRow, ...]:
    """The accuracy table."""
    from ppcls_core.report.model import AccuracyRow

    rows = read_json(evaluate.path("accuracy.json"))
    return tuple(AccuracyRow(**{k: v for k, v in row.items() if k != "rejected"}) for row in rows)


def curve(result: Result) -> Curve:
    """Loss, learning rate and validation accuracy of a training stage."""
    from ppcls_core.report.model import Curve, Series

    rows = read_json(result.path("history.json"))

    def series(name: str) -> Series:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        return Series(tuple(x for x, _ in points), tuple(y for _, y in points))

    return Curve(result.stage, series("loss"), series("lr"), series("top1"))


def duplicate_pairs(work: Work) -> tuple[DuplicatePair, ...]:
    """Pairs to look at, those that nobody planted before the others."""
    from ppcls_core.dedup.result.gallery import duplicate_pairs as drawn

    chosen = table(work, "dedup/gallery.parquet")
    pool, val = images(work, "data/pool.arrow"), images(work, "data/val.arrow")
    return drawn(chosen, pool.find, val.find, work.recipe.dedup)


def selection(work: Work) -> Selection:
    """What was selected, and how sure the teacher was of the pool."""
    from ppcls_core.report.model import Selection

    rows = table(work, "select/selection.parquet")
    scores, _ = np.histogram(rows["score"].to_numpy(), _BINS, (0, 1))
    return Selection(
        policy=work.recipe.select.policy,
        classes=class_samples(work, rows),
        scores=_as_histogram(scores, 1),
        entropies=entropies(work.inputs["label"], num_classes(work)),
    )


def class_samples(work: Work, rows: pa.Table) -> tuple[ClassSample, ...]:
    """Each class of the selection's `rows`, those that the page shows with their pictures."""
    from ppcls_core.report.model import ClassSample
    from ppcls_core.report.page import MAX_CLASSES

    classes, k = images(work, "data/train.arrow").classes, work.recipe.select.k
    bounds = np.searchsorted(rows["class_id"].to_numpy(), np.arange(len(classes) + 1)).tolist()
    parts = [rows.slice(first, end - first) for first, end in pairwise(bounds)]
    ids = [part["image_id"].to_pylist() for part in parts[:MAX_CLASSES]]
    best = [part[:NUM_BEST] for part in ids]
    borderline = [part[NUM_BEST:][-NUM_BORDERLINE:] for part in ids]
    thumbnails = _thumbnails(
        work, "dedup/kept.arrow", {i for part in best + borderline for i in part}
    )

    def pictures(groups: list[list[str]], c: int) -> tuple[np.ndarray, ...]:
        return tuple(thumbnails[i] for i in groups[c] if i in thumbnails) if c < len(groups) else ()

    return tuple(
        ClassSample(
            name=name,
            num_selected=len(parts[c]),
            wanted=k,
            lowest_score=parts[c]["score"][-1].as_py() if len(parts[c]) else None,
            best=pictures(best, c),
            borderline=pictures(borderline, c),
        )
        for c, name in enumerate(classes)
    )


def entropies(label: Result, num_classes: int) -> Histogram:
    """Of the teacher's probabilities for each image as in a test, in nats."""
    from ppcls_core.labels.shard import open_shard

    highest = max(math.log(num_classes), 1e-6)
    counts = np.zeros(_BINS, np.int64)
    for number in range(label.metrics["shards"]):
        shard = open_shard(label.path(shard_file(number, "labels")))
        for batch in shard.batches(["view", "entropy"]):
            values = batch["entropy"].to_numpy()[batch["view"].to_numpy() == 0]
            counts += np.histogram(np.clip(values, 0, highest), _BINS, (0, highest))[0]
    return _as_histogram(counts, highest)


def _as_histogram(counts: np.ndarray, highest: float) -> Histogram:
    """Of values from 0 to `highest`."""
    from ppcls_core.report.model import Histogram

    edges = np.linspace(0, highest, len(counts) + 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def count_rows(done: Mapping[str, Result]) -> list[CountRow]:
    """in = kept + duplicates + rejected, for the stages that sort images."""
    from ppcls_core.report.model import CountRow

    rows = []
    for name in ("dedup", "label", "select"):
        counts = done[name].counts
        rejected = sum(n for reason, n in counts.items() if reason.startswith("rejected"))
        kept = counts["kept"] if "kept" in counts else counts["out"]
        rows.append(CountRow(name, counts["in"], kept, counts.get("duplicates", 0), rejected))
    return rows


def _headline(work: Work) -> Headline:
    from ppcls_core.report.model import Headline

    final = accuracies(work.inputs["evaluate"])[-1]
    return Headline(
        top1=final.top1,
        gain=final.gain,
        images_labelled=work.inputs["label"].counts["out"],
        duplicates_removed=work.inputs["dedup"].counts["duplicates"],
    )


def _rejected(dedup: Result) -> dict[str, int]:
    prefix = "rejected: "
    return {n.removeprefix(prefix): c for n, c in dedup.counts.items() if n.startswith(prefix)}


def _settings(work: Work) -> str:
    settings: dict[str, Any] = work.recipe.model_dump(mode="json", exclude={"run_time"})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _thumbnails(work: Work, name: str, ids: set[str]) -> dict[str, np.ndarray]:
    """Small pictures of these images; one that cannot be read any more is left out."""
    from ppcls_core.report.figures import thumbnail

    pictures = {}
    for image_id, path in _paths(work, name, ids):
        try:
            pictures[image_id] = thumbnail(read_image(path), THUMBNAIL)
        except BadImage:
            continue
    return pictures


def _paths(work: Work, name: str, ids: set[str]) -> Iterator[tuple[str, Source]]:
    """(id, file) of those of `ids` that are in the images `name`."""
    yield from images(work, name).find(ids).items()


STAGE = Stage(
    "report",
    3,
    (
        "name",
        "seed",
        "shard_size",
        "data",
        "dedup",
        "label",
        "select",
        "student",
        *TRAINED,
    ),
    (
        "data/*.parquet",
        "dedup/*.parquet",
        "dedup/kept.arrow",
        "data/*.arrow",
        "label/*.parquet",
        "select/*.parquet",
        *(f"{name}/history.json" for name in TRAINED),
        "evaluate/accuracy.json",
        "export/sidecar.json",
    ),
    run,
)
