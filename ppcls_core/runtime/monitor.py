"""How long work reports progress and learns that it should stop; knows nothing of who listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Interrupted(BaseException):
    """Work stopped on request after saving what was done; like KeyboardInterrupt no Exception."""


class Monitor(Protocol):
    """Receives progress in units of work; `stop_requested` turns true when a user cancels."""

    @property
    def stop_requested(self) -> bool: ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units; called often, so the listener rate-limits what it shows."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Figures worth a line of log (epoch, loss, top1 ...)."""

    def note(self, message: str) -> None:
        """A sentence for the user."""


class SilentMonitor:
    """Listens to nothing and never stops: for direct calls of the core."""

    stop_requested = False

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def metrics(self, values: Mapping[str, float]) -> None: ...

    def note(self, message: str) -> None: ...


def check(monitor: Monitor) -> None:
    """Raise Interrupted when a stop was requested."""
    if monitor.stop_requested:
        raise Interrupted
