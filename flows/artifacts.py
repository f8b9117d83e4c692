"""Artifacts of a finished stage on Prefect's dashboard."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from data_catalog.base.files import read_json
from ppcls_core.report.figures import data_url, learning_curves, pair_sheet, selection_sheet
from ppcls_core.runtime.monitor import SilentMonitor
from tasks.run.session import Session
from tasks.run.stage import Work
from tasks.run.store import Result
from tasks.stages import report


def publish(session: Session, result: Result) -> None:
    """Artifacts of `result`: a table of its counts, pictures and figures where it has some."""
    create_table_artifact([_row(result)], key=f"{result.stage}-stage", description=_title(result))
    if result.stage in report.TRAINED:
        _learning_curve(result)
    elif result.stage == "dedup":
        _duplicates(session, result)
    elif result.stage == "select":
        _selection(session, result)
    elif result.stage == "evaluate":
        rows = read_json(result.path("accuracy.json"))
        create_table_artifact(rows, key="accuracy", description="Accuracy on the validation images")
    elif result.stage == "report":
        page = result.path("report.html")
        text = f"# Report\n\n[{page}]({page.as_uri()})\n"
        create_markdown_artifact(text, key="report", description="The report of this run")


def _row(result: Result) -> dict[str, Any]:
    row = report.stage_row(result)
    rate = f"{row.images_per_second:.1f}" if row.images_per_second else ""
    return {"stage": row.name, **result.counts, "seconds": row.seconds, "images/s": rate}


def _title(result: Result) -> str:
    return f"Stage {result.stage}: counts, time, throughput"


def _learning_curve(result: Result) -> None:
    curve = report.curve(result)
    if curve.loss.x:
        _image(learning_curves([curve]), "svg+xml", f"{result.stage}-curve", "Learning curve")


def _duplicates(session: Session, result: Result) -> None:
    pairs = report.duplicate_pairs(_finished_work(session, result))
    if pairs:
        _image(pair_sheet(pairs), "jpeg", "duplicates", "Pairs nearest the rule, on both sides")


def _selection(session: Session, result: Result) -> None:
    rows = pq.read_table(result.path("selection.parquet"))
    samples, _ = report.class_samples(_finished_work(session, result), rows)
    _image(selection_sheet(samples), "jpeg", "selection", "Best and borderline images per class")


def _finished_work(session: Session, result: Result) -> Work:
    return Work(
        result.stage, session.recipe, result.directory, result.key, session.done, SilentMonitor()
    )


def _image(data: bytes, kind: str, key: str, description: str) -> None:
    create_image_artifact(data_url(data, f"image/{kind}"), key=key, description=description)
