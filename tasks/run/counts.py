"""Numbers of images by what became of them, as the manifests of finished stages have them."""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from ppcls_core.dedup.run import NUM_NAMED, unusable
from ppcls_core.report.model import LeftOut
from tasks.run.store import Result

_REJECTED = "rejected: "  # before the reason, in a stage's counts
# Metrics that count by reason what a stage's counts do not: images of another set, files.
_LEFT_OUT = {
    "val_rejected": "validation image",
    "passed_over": "file passed over",
    "damaged": "damaged",
}


def left_out(done: Iterable[Result]) -> Iterator[LeftOut]:
    """A row for each stage and reason for which it did without images."""
    for result in done:
        names = _rejected_names(result)
        for name, number in result.counts.items():
            if name == "duplicates":
                yield LeftOut(result.stage, "duplicate", number)
            elif name.startswith(_REJECTED):
                reason = name.removeprefix(_REJECTED)
                yield LeftOut(result.stage, reason, number, names.get(reason, ()))
        for name, title in _LEFT_OUT.items():
            for reason, number in _leaves(result.metrics.get(name, {}), title):
                yield LeftOut(result.stage, reason, number)


def _rejected_names(result: Result) -> dict[str, list[str]]:
    """The first images that a stage rejected for each reason, where it has a table of them."""
    if "rejected.parquet" not in result.files:
        return {}
    rejected = unusable(result.directory)
    reasons = rejected["reason"].unique().to_pylist()
    chosen = {r: rejected.filter(pc.equal(rejected["reason"], r)) for r in reasons}
    return {r: rows["image_id"][:NUM_NAMED].to_pylist() for r, rows in chosen.items()}


def _leaves(counts: Mapping[str, Any] | int, title: str) -> Iterator[tuple[str, int]]:
    """(title with the keys that lead to it, number) of each number in nested `counts`."""
    if isinstance(counts, int):
        yield title, counts
        return
    for name, inner in counts.items():
        yield from _leaves(inner, f"{title}: {name}")
