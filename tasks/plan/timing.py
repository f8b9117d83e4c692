"""Time, cores and memory of work that reports its progress, phase by phase.

    with Usage() as usage:
        timing = Timing(usage)
        stage(..., monitor=timing)
        used = timing.close()

Processor time is of this process and all that it started, so that work that waits for other
programs on a busy machine seems no dearer.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ppcls_core.runtime.monitor import Monitor

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_POLL_SECONDS = 0.2  # between two looks at the memory
_WARM_UP = 0.25  # of a phase, in which its threads and engines begin
EPOCHS = "epochs"  # unit of the ends of epochs, each with a validation


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, of the processors, and of these in the thread that asked."""

    wall: float = 0.0
    core: float = 0.0
    thread: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self._all, other._all, strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, times: float) -> Cost:
        return Cost(*(seconds * times for seconds in self._all))

    @property
    def _all(self) -> tuple[float, float, float]:
        return self.wall, self.core, self.thread

    def alone(self, cores: int) -> float:
        """Seconds by the clock, were no other program there, of work that one thread leads and the
        others run ahead of; on a machine of `cores`."""
        return min(self.wall, max(self.thread, self.core / cores))


@dataclass
class Phase:
    """Work on `total` things of a `unit`: the cost of `done` of them, and of what else there was.

    The first report of a phase is in nothing of it, but for EPOCHS: what led to it is no work of
    the phase alone. `warm_up` is what the next ones cost, up to a quarter of the phase, and `begun`
    how many things they were: a process that has just begun takes longer. `after` is what came
    between its last report and the next one's first.
    """

    total: int
    unit: str
    done: int = 0
    cost: Cost = Cost()
    begun: int = 0
    warm_up: Cost = Cost()
    after: Cost = Cost()
    last: int = 0  # as reported

    @property
    def each(self) -> Cost:
        """The cost of one of them; nothing where a single report says of none."""
        return self.cost * (1 / self.done) if self.done else Cost()


@dataclass(frozen=True)
class Used:
    """The cost of some work: in all, before its first report and after its last, and by phase.

    `memory`: bytes resident at the most, of all processes, but for mapped files. `others`: cores
    that programs of others had meanwhile.
    """

    total: Cost
    start: Cost
    end: Cost
    phases: tuple[Phase, ...]
    memory: int
    others: float


class Usage:
    """Meter of the memory and processors of this process and those it started, in a block."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._observe, daemon=True)
        self._memory, self._pids = 0, (os.getpid(),)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def now(self) -> Cost:
        """The clock, and the processor seconds of all processes, those that ended included."""
        ticks = sum(sum(map(int, found[11:15])) for found in map(_stat, self._pids) if found)
        return Cost(time.monotonic(), ticks / _TICKS, time.thread_time())

    def take_memory(self) -> int:
        """The most bytes since this was last asked."""
        most, self._memory = max(self._memory, self._own_memory()), 0
        return most

    def _observe(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            self._pids = _family()
            self._memory = max(self._memory, self._own_memory())

    def _own_memory(self) -> int:
        pages = 0
        for pid in self._pids:
            with suppress(OSError):  # it has just ended
                text = Path(f"/proc/{pid}/statm").read_text()
                _, resident, shared, *_ = map(int, text.split())
                pages += resident - shared
        return pages * _PAGE


class Timing(Monitor):
    """A Monitor that notes when progress is reported, and what was used until then."""

    stop_requested: bool = False  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, usage: Usage) -> None:
        self._usage, self._phases = usage, dict[tuple[int, str], Phase]()
        usage.take_memory()
        self._start = Cost()
        self._began = self._last = usage.now()
        self._current: Phase | None = None
        self._machine = _machine_seconds()

    def progress(self, done: int, total: int, unit: str) -> None:
        """The interval since the last report belongs to the phase of this one."""
        now = self._usage.now()
        spent, self._last = now - self._last, now
        phase = self._phases.setdefault((total, unit), Phase(total, unit))
        if phase.last or unit == EPOCHS:  # which begins where the steps end
            new = done - phase.last if done > phase.last else done  # it has begun again
            if unit != EPOCHS and done <= _WARM_UP * total:
                phase.begun, phase.warm_up = phase.begun + new, phase.warm_up + spent
            else:
                phase.done, phase.cost = phase.done + new, phase.cost + spent
        elif self._current is None:
            self._start = spent
        else:
            self._current.after += spent
        phase.last, self._current = done, phase

    def metrics(self, values: Mapping[str, float]) -> None:
        """A training reports them at the end of an epoch."""
        epoch = self._phases.get((0, EPOCHS))
        self.progress((epoch.last if epoch else 0) + 1, 0, EPOCHS)

    def note(self, message: str) -> None:
        """Nobody reads notes of a sample."""

    def close(self) -> Used:
        """Close the last phase; all that was used since the beginning."""
        now = self._usage.now()
        end, total = now - self._last, now - self._began
        others = (_machine_seconds() - self._machine - total.core) / max(total.wall, 1e-6)
        memory, phases = self._usage.take_memory(), tuple(self._phases.values())
        return Used(total, self._start, end, phases, memory, max(0.0, others))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; none of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _family() -> tuple[int, ...]:
    """This process and all that came of it."""
    children = defaultdict[int, list[int]](list)
    for folder in Path("/proc").glob("[0-9]*"):
        if found := _stat(int(folder.name)):
            children[int(found[1])].append(int(folder.name))
    family = [os.getpid()]
    for pid in family:  # which grows
        family += children[pid]
    return tuple(family)


def _machine_seconds() -> float:
    """Processor seconds of all programs since the machine began."""
    ticks = Path("/proc/stat").read_text().split()[1:4]  # user, nice, system
    return sum(map(int, ticks)) / _TICKS
