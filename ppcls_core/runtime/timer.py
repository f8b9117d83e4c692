"""How long runs of the same work take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]


@dataclass(frozen=True)
class Repeats:
    """How often work runs before it is timed, and then: rounds, or `seconds` if those are more.

    Of the `seconds` no more is made than `most` rounds.
    """

    warmup: int = 3
    rounds: int = 5
    seconds: float = 1.0
    most: int = 200


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each run."""

    milliseconds: Sequence[float]

    @property
    def minimum(self) -> float:
        return min(self.milliseconds)

    @property
    def maximum(self) -> float:
        return max(self.milliseconds)

    @property
    def mean(self) -> float:
        return sum(self.milliseconds) / len(self.milliseconds)

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def p99(self) -> float:
        """That which 99 of 100 runs do not exceed."""
        return float(np.percentile(self.milliseconds, 99))


def time_in_turn(runs: Mapping[str, Run], repeats: Repeats = Repeats()) -> dict[str, Timing]:
    """Each of `runs` several times, one after another in rounds: what slows the machine hits all.

    After the warm-up come rounds until each has run often and long enough.
    """
    for _ in range(repeats.warmup):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    while not all(_suffice(taken, repeats) for taken in times.values()):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: Timing(taken) for name, taken in times.items()}


def _suffice(milliseconds: Sequence[float], repeats: Repeats) -> bool:
    if len(milliseconds) < repeats.rounds:
        return False
    return sum(milliseconds) >= 1000 * repeats.seconds or len(milliseconds) >= repeats.most
