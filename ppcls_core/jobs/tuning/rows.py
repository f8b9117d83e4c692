"""The trials of a search as plain values, for its log, table and page."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TrialRow:
    """A point that was tried. `top1` (fractions) has a value a seed, `curve` one a validation."""

    number: int
    state: Literal["complete", "pruned", "failed", "running"]
    values: Mapping[str, str]  # by axis
    overrides: tuple[str, ...]
    top1: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    seconds: float | None = None
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """The top-1 that the search maximises; None unless complete."""
        return statistics.fmean(self.top1) if self.state == "complete" else None


@dataclass(frozen=True)
class Trials:
    """The rows of a search by number, the best one, and each axis's share of what made a difference
    (empty where too few are complete)."""

    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    importance: Mapping[str, float] = field(default_factory=dict)

    def count(self, state: str) -> int:
        """Number of rows in that state."""
        return sum(row.state == state for row in self.rows)


def best_of(rows: Iterable[TrialRow]) -> TrialRow | None:
    """The complete row of the highest mean top-1, the earliest of equals; None without one."""
    complete = ((row.mean, -row.number, row) for row in rows if row.mean is not None)
    return max(complete, default=(0, 0, None))[2]
