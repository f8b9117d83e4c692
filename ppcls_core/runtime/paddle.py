"""Paddle's import, which takes three seconds and has side effects, and its errors."""

import contextlib
import errno
import importlib
import io
import logging
import re
import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType

from data_catalog.base.errors import UserError

# What Paddle raises, beside Python's own meanings: OSError for an error of CUDA, cuDNN or NCCL,
# MemoryError for want of a GPU's memory, RuntimeError for most of the rest.
ERRORS = (RuntimeError, OSError, MemoryError)
# Where there is no memory left, or `ulimit -v` allows no more, OpenCV, the loader of libraries and
# Python's threads each say it in another way.
_NO_MEMORY = re.compile(
    r"(?i)out of memory|insufficient memory|cannot allocate memory|failed to map segment|bad_alloc"
    r"|can't start new thread"
)
# Lines of its messages that are no reason: rules, a heading, a frame of the stack in C++.
_NO_REASON = re.compile(r"-*|C\+\+ Traceback.*|Error Message Summary:|\d+ .*")
# Two lines of advice that it prints where OMP_NUM_THREADS is more than 1.
_ADVICE = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


def reason_of(error: BaseException) -> str:
    """The reason that an error of Paddle gives, on a line, without stack and source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if not _NO_REASON.fullmatch(line)]
    if said and re.fullmatch(r"\(\w+\)", said[0]):  # the kind alone, as before "Out of memory"
        return " ".join(said[:2])
    return said[0] if said else type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Whether `error` says that there is no memory left for what was tried."""
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return no_memory or _NO_MEMORY.search(str(error)) is not None


def import_paddle() -> None:
    """Import Paddle without its advice on a number of threads, with signals' handlers left as they
    were, and without the style that it gives to the messages of all loggers.

    Raises UserError: there is no memory for it.
    """
    if "paddle" in sys.modules:
        return
    stream = _Stderr()
    try:
        with _keeping_signals(), contextlib.redirect_stderr(stream):
            importlib.import_module("paddle")
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            f"not enough memory to load Paddle ({reason_of(error)}); give it more, where `ulimit "
            "-v` limits it too"
        ) from error
    finally:
        stream.release()
        for root in logging.root.handlers:
            if getattr(root, "stream", None) is stream:
                root.setFormatter(logging.Formatter())


@contextlib.contextmanager
def _keeping_signals() -> Generator[None]:
    """Restore the handler of SIGTERM after the block, as Paddle's own prints a stack of C++; and
    let Ctrl-C wait until then, as a library that it stops while it is loaded is a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    on_term, on_int = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    waiting: list[tuple[int, FrameType | None]] = []
    if callable(on_int):
        signal.signal(signal.SIGINT, lambda *signalled: waiting.append(signalled))
    try:
        yield
    finally:
        if on_term is not None:
            signal.signal(signal.SIGTERM, on_term)
        if callable(on_int):
            signal.signal(signal.SIGINT, on_int)
            for signalled in waiting[:1]:
                on_int(*signalled)


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
