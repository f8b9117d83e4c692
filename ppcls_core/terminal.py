"""What the command lines `ssld` and `ppcls` have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from data_catalog.config import UserError


def run_app(app: Callable[[], object]) -> None:
    """Run a command line and exit: a user's mistake is its message and status 2, no traceback."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[red]error:[/] {str(error).replace('[', chr(92) + '[')}"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: what is done is kept, run again to go on")
        sys.exit(130)
