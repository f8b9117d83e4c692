"""Numbers of images by what became of them, as the manifests of finished stages have them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
        for name, number in result.counts.items():
            if name.startswith(_REJECTED):
                yield LeftOut(result.stage, name.removeprefix(_REJECTED), number)
        for name, title in _LEFT_OUT.items():
            for reason, number in _leaves(result.metrics.get(name, {}), title):
                yield LeftOut(result.stage, reason, number)


def _leaves(counts: Mapping[str, Any] | int, title: str) -> Iterator[tuple[str, int]]:
    """(title with the keys that lead to it, number) of each number in nested `counts`."""
    if isinstance(counts, int):
        yield title, counts
        return
    for name, inner in counts.items():
        yield from _leaves(inner, f"{title}: {name}")
