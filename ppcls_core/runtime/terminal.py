"""Escapes and exit statuses that the command lines `ssld` and `ppcls` have in common."""

import sys
from collections.abc import Callable

from rich.console import Console

from data_catalog.base.errors import UserError
from ppcls_core.runtime.monitor import Interrupted
from ppcls_core.runtime.paddle import lacks_memory, reason_of


class CtrlC(Exception):
    """A KeyboardInterrupt under another name: Typer ends on that itself, without a word."""


def escaped(text: str) -> str:
    """`text` with what could steer a terminal or break its lines shown as an escape."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def run_app(app: Callable[[], object]) -> None:
    """Run a command line and exit: a user's mistake is its message and status 2, no traceback."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, CtrlC):
        Console(stderr=True).print("interrupted")
        sys.exit(130)
    except Interrupted:
        Console(stderr=True).print("interrupted: a checkpoint is written; run again to go on")
        sys.exit(130)
    except Exception as error:
        if lacks_memory(error):
            _fail(f"not enough memory ({reason_of(error)}); ask for less, as by a smaller batch")
        if not isinstance(error, OSError):
            raise
        if error.errno is None:  # no file: of CUDA, cuDNN or NCCL, as Paddle raises it
            _fail(f"{reason_of(error)}; `ppcls doctor` tries what works on this machine")
        path = f"{error.filename}: " if error.filename else ""
        _fail(f"{path}{error.strerror or error}; check the path, its rights and the free space")


def _fail(message: str) -> None:
    console = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)
    console.print("error:", style="red", end=" ")
    console.print(escaped(message), markup=False)
    sys.exit(2)
