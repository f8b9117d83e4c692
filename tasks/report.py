"""report: one self-contained page that says what the pipeline did and gained.

Files: report.html.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import yaml

from data_catalog.files import read_json, write_bytes
from ppcls_core.data.decode import BadImage, read_image
from tasks.inputs import manifest, roots, table
from tasks.stage import Outcome, Stage, Work
from tasks.store import Result

if TYPE_CHECKING:
    import numpy as np

    from ppcls_core.report.model import (
        AccuracyRow,
        ClassSample,
        CountRow,
        Curve,
        DuplicatePair,
        Headline,
        PlantedRow,
        StageRow,
    )

TRAINED = ("teacher", "baseline", "distill", "finetune", "fix")
NUM_PAIRS, NUM_BEST, NUM_BORDERLINE, THUMBNAIL = 24, 6, 3, 112


def run(work: Work) -> Outcome:
    """Fill the report's content from the manifests and draw it."""
    from ppcls_core.report.model import Report
    from ppcls_core.report.page import render

    last = work.inputs["evaluate"].record
    report = Report(
        title=work.recipe.name,
        created_utc=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        headline=_headline(work),
        stages=tuple(stage_row(result) for result in work.inputs.values()),
        accuracies=accuracies(work.inputs["evaluate"]),
        curves=tuple(curve(work.inputs[name]) for name in TRAINED),
        duplicates=duplicate_pairs(work),
        planted=planted_rows(work.inputs["dedup"]),
        selection=class_samples(work),
        reconciliation=tuple(count_rows(work.inputs)),
        rejected=_rejected(work.inputs["dedup"]),
        settings_yaml=_settings(work),
        versions=last["versions"],
        files={
            name: str(r.directory.relative_to(r.directory.parent.parent))
            for name, r in work.inputs.items()
        },
    )
    write_bytes(work.path("report.html"), render(report).encode())
    return Outcome(files=["report.html"], volatile=["report.html"])


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


def planted_rows(dedup: Result) -> tuple[PlantedRow, ...]:
    """Recall of planted duplicates by transform."""
    from ppcls_core.report.model import PlantedRow

    planted: Mapping[str, list[int]] = dedup.metrics["planted"]
    return tuple(PlantedRow(name, *score) for name, score in planted.items())


def duplicate_pairs(work: Work) -> tuple[DuplicatePair, ...]:
    """Pairs to look at: first those that nobody planted, the weakest evidence first."""
    from ppcls_core.report.model import DuplicatePair

    planted = {
        (row["pool_id"], row["val_id"]): row["transform"]
        for row in table(work, "data/planted.parquet").to_pylist()
    }
    rows = table(work, "dedup/pairs.parquet").drop_columns(["transform"]).to_pylist()
    rows.sort(key=lambda r: ((r["pool_id"], r["val_id"]) in planted, r["score"], r["pool_id"]))
    chosen = rows[:NUM_PAIRS]
    pool = _thumbnails(work, "data/pool.parquet", {row["pool_id"] for row in chosen})
    val = _thumbnails(work, "data/val.parquet", {row["val_id"] for row in chosen})
    return tuple(
        DuplicatePair(
            **row,
            pool_image=pool.get(row["pool_id"]),
            val_image=val.get(row["val_id"]),
            planted=planted.get((row["pool_id"], row["val_id"])),
        )
        for row in chosen
    )


def class_samples(work: Work) -> tuple[ClassSample, ...]:
    """The best and the borderline images selected for each class."""
    from ppcls_core.report.model import ClassSample

    classes, k = manifest(work, "data/train.parquet").classes, work.recipe.select.k
    rows = table(work, "select/selection.parquet").to_pylist()
    chosen = {c: list(g) for c, g in groupby(rows, key=lambda row: row["class_id"])}
    shown = {c: (g[:NUM_BEST], g[NUM_BEST:][-NUM_BORDERLINE:]) for c, g in chosen.items()}
    ids = {row["image_id"] for groups in shown.values() for g in groups for row in g}
    images = _thumbnails(work, "dedup/kept.parquet", ids)

    def pictures(c: int, group: int) -> tuple[np.ndarray, ...]:
        found = (images.get(row["image_id"]) for row in shown.get(c, ((), ()))[group])
        return tuple(image for image in found if image is not None)

    return tuple(
        ClassSample(
            name=name,
            num_selected=len(chosen.get(c, ())),
            wanted=k,
            lowest_score=chosen[c][-1]["score"] if c in chosen else None,
            best=pictures(c, 0),
            borderline=pictures(c, 1),
        )
        for c, name in enumerate(classes)
    )


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

    images = manifest(work, name)
    found = images.take([row for row, image_id in enumerate(images.ids) if image_id in ids])
    pictures = {}
    for image_id, path in zip(found.ids, found.resolve(roots(work)), strict=True):
        try:
            pictures[image_id] = thumbnail(read_image(path), THUMBNAIL)
        except BadImage:
            continue
    return pictures


STAGE = Stage(
    "report",
    1,
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
        "label/*.parquet",
        "select/*.parquet",
        *(f"{name}/history.json" for name in TRAINED),
        "evaluate/accuracy.json",
        "export/inference.yml",
    ),
    run,
)
