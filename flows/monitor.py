"""How a running stage is seen and stopped: progress in log and dashboard, signals to a flag."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from ppcls_core.runtime.monitor import Interrupted
from ppcls_core.runtime.stop import StopFlag, stop_on_signals

LOG_SECONDS, ARTIFACT_SECONDS = 10.0, 3.0


@dataclass
class Watch:
    """The Monitor of a stage that runs under Prefect; rate-limits what it shows."""

    logger: logging.Logger | logging.LoggerAdapter
    stop: StopFlag
    _start: float = field(default_factory=time.monotonic)
    _first: int | None = None  # where this attempt began
    _unit: str = ""
    _logged: float = field(default_factory=time.monotonic)
    _sent: float = 0.0
    _artifact: Any = None  # UUID of the progress artifact

    @property
    def stop_requested(self) -> bool:
        return self.stop.is_set

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if self._first is None or unit != self._unit:
            self._first, self._unit, self._start = done - 1, unit, now
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            self.logger.info(self._line(done, total, unit))
        if now - self._sent >= ARTIFACT_SECONDS or done == total:
            self._sent = now
            self._show(100 * done / max(total, 1), self._line(done, total, unit))

    def metrics(self, values: Mapping[str, float]) -> None:
        self.logger.info(", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def note(self, message: str) -> None:
        self.logger.info("%s", message)

    def _line(self, done: int, total: int, unit: str) -> str:
        rate = (done - (self._first or 0)) / max(time.monotonic() - self._start, 1e-3)
        left = (total - done) / rate if rate > 0 else 0
        share = f"{done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
        return f"{share}, {rate:,.1f} {unit}/s, {_duration(left)} left"

    def _show(self, percent: float, line: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=line)
        else:
            update_progress_artifact(self._artifact, percent, description=line)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def watching(logger: logging.Logger | logging.LoggerAdapter) -> Iterator[Watch]:
    """A Watch whose `stop_requested` follows SIGTERM and SIGINT.

    The signal that stopped the stage is raised again once it has committed what it had, so that
    Prefect (or the shell) sees a process stopped by that signal.
    """
    with stop_on_signals(raise_again=True) as stop:
        try:
            yield Watch(logger, stop)
        except Interrupted:
            logger.warning("stopped on request; what is done is saved, run again to go on")
            raise
