"""How long runs of the same work take."""

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


def time_in_turn(runs: Mapping[str, Run], repeats: Repeats = Repeats()) -> dict[str, np.ndarray]:
    """Milliseconds that each of `runs` takes, float64 [times it ran].

    They run one after another in rounds: what slows the machine hits all. After the warm-up come
    rounds until each has run often and long enough.
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
    return {name: np.array(taken) for name, taken in times.items()}


def _suffice(milliseconds: Sequence[float], repeats: Repeats) -> bool:
    if len(milliseconds) < repeats.rounds:
        return False
    return sum(milliseconds) >= 1000 * repeats.seconds or len(milliseconds) >= repeats.most
