"""Paddle's import, which takes three seconds and has side effects that are undone here."""

import contextlib
import importlib
import io
import signal
import sys
import threading

# Two lines of advice that it prints where OMP_NUM_THREADS is more than 1.
_ADVICE = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


def import_paddle() -> None:
    """Import Paddle without its advice on a number of threads, and with SIGTERM left as it was."""
    if "paddle" in sys.modules:
        return
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    stream = _Stderr()
    try:
        with contextlib.redirect_stderr(stream):
            importlib.import_module("paddle")
    finally:
        stream.release()
        if in_main_thread and handler is not None:  # Paddle's own prints a stack of C++
            signal.signal(signal.SIGTERM, handler)


class _Stderr(io.TextIOBase):
    """Standard error, whichever it is, with a pause while Paddle is imported.

    Paddle's loggers keep for good the stream that they find at the import: a mere buffer in its
    place would swallow every later warning.
    """

    def __init__(self) -> None:
        self._held: list[str] | None = []

    def write(self, text: str, /) -> int:
        if self._held is None:
            return sys.stderr.write(text)
        self._held.append(text)
        return len(text)

    def flush(self) -> None:
        if self._held is None:
            sys.stderr.flush()

    def release(self) -> None:
        """Pass on what was held back, but for the advice, and all that follows."""
        lines = "".join(self._held or ()).splitlines(keepends=True)
        self._held = None
        for line in lines:
            if not line.startswith(_ADVICE):
                sys.stderr.write(line)
