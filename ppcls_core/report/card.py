"""model_card.md: what a user of the exported model has to know, in Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data_catalog.base.words import counted, reason_in_words
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.report.model import TOP5, Report, percent, printable, says_something, signed
from ppcls_core.report.page import summary, total

NUM_NAMES = 30  # of classes; the sidecar has all


@dataclass(frozen=True)
class DataRow:
    """A list of images: `digest` is the sha256 (hex) of its manifest."""

    name: str
    number: int
    digest: str


@dataclass(frozen=True)
class ProvenanceRow:
    """A stage of the run: identity of what was asked for, and of what it made."""

    stage: str
    key: str
    digest: str
    seconds: float


def model_card(
    report: Report,
    sidecar: Sidecar,
    data: Sequence[DataRow],
    teacher: str,
    provenance: Sequence[ProvenanceRow],
) -> str:
    """Markdown, to be written as UTF-8; `teacher` are sentences about how it came to be."""
    # Markdown, not HTML: `md` escapes what it takes for mark-up, HTML included.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False
    )
    environment.filters |= _FILTERS
    return environment.get_template("card.md").render(
        report=report,
        card=sidecar,
        sentence=summary(report.headline),
        images=report.accuracies[-1].num_images,
        has_top5=says_something(TOP5, len(sidecar.classes)),
        names=sidecar.classes[:NUM_NAMES],
        data=data,
        teacher=teacher,
        canaries=total(report.canaries),
        provenance=provenance,
    )


def _escaped(text: object) -> str:
    """`text` as plain words of Markdown, on one line."""
    line = " ".join(printable(str(text)).split())
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", line)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "md": _escaped,
    "percent": percent,
    "signed": signed,
    "counted": counted,
    "in_words": reason_in_words,
}
