"""The model card of a finished run, which the report stage writes beside its page."""

from __future__ import annotations

from ppcls_core.inference.exported import Exported
from ppcls_core.report.card import DataRow, ProvenanceRow, model_card
from ppcls_core.report.model import Report
from tasks.run.stage import Work
from tasks.stages.inputs import images

CARD = "model_card.md"


def card(work: Work, report: Report) -> str:
    """Markdown about the exported model: its data, contamination, teacher, recipe, provenance."""
    done = work.inputs
    names = ("train", "teacher", "val", "pool")
    files = {name: f"{name}.arrow" for name in names}
    data = [
        DataRow(name, len(images(work, f"data/{file}")), done["data"].files[file].sha256)
        for name, file in files.items()
    ]
    provenance = [
        ProvenanceRow(name, result.key, result.digest, result.record["seconds"])
        for name, result in done.items()
    ]
    sidecar = Exported(done["export"].directory).sidecar
    return model_card(report, sidecar, data, _teacher(work), provenance)


def _teacher(work: Work) -> str:
    config, weights = work.recipe.teacher, work.inputs["teacher"].files["model.pdparams"].sha256
    origin = "trained on `teacher`" if config.weights is None else "given with its weights"
    return f"The teacher, {config.model.name}, was {origin}; sha256 of the weights: `{weights}`."
