"""How long work reports progress and learns that it should stop; knows nothing of who listens."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

STOPPED = "stopped on request"  # what is said of a stage or run that was


class Interrupted(BaseException):
    """Work stopped on request after saving what was done; like KeyboardInterrupt no Exception."""


class Monitor(Protocol):
    """Receives progress in units of work; `stop_requested` turns true when a user cancels."""

    @property
    def stop_requested(self) -> bool:
        """Whether the work should save what is done and raise Interrupted."""
        ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units; called often, so the listener rate-limits what it shows."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Figures worth a line of log (epoch, loss, top1 ...)."""

    def note(self, message: str) -> None:
        """A sentence for the user."""


def figure_texts(values: Mapping[str, float]) -> list[str]:
    """`values` of `Monitor.metrics` in words, accuracies in percent: "loss 1.31", "top1 45.0 %"."""
    return [
        f"{name} {100 * value:.1f} %" if name.startswith("top") else f"{name} {value:.4g}"
        for name, value in values.items()
    ]


class SilentMonitor(Monitor):
    """Listens to nothing and never stops: for direct calls of the core."""

    stop_requested: bool = False  # pyright: ignore[reportIncompatibleMethodOverride]  # may be set


def check(monitor: Monitor) -> None:
    """Raise Interrupted when a stop was requested."""
    if monitor.stop_requested:
        raise Interrupted


@dataclass
class StopFlag:
    """A request to stop: `received` is the signal that made it, or None."""

    received: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self.received is not None


@contextmanager
def stop_on_signals(raise_again: bool = False) -> Iterator[StopFlag]:
    """A flag that the first SIGINT or SIGTERM in the block sets.

    A second SIGINT does what it did before the block, which kills; a repeated SIGTERM is nothing
    new, as Paddle's launcher repeats its own within a second. After the block the handlers from
    before are back. With `raise_again` a SIGTERM received is then raised again, so that whoever
    sent it sees this process stopped by it; of a SIGINT the user is told by the caller. Outside the
    main thread, where Python has no signals, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    # None: a handler that was not set from Python, and cannot be set again from here.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def stop(number: int, frame: FrameType | None) -> None:
        flag.received = flag.received or number  # the first says how to end
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if raise_again and flag.received == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)


def ignore_sigterm_when(condition: Callable[[], bool]) -> None:
    """From now on SIGTERM ends this process, as it does by itself, unless `condition()` is true.

    Where SIGTERM has another meaning already, or outside the main thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None):
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if not condition():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
