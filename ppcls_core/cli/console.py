"""Where the commands print."""

from __future__ import annotations

import sys

from rich.console import Console

from ppcls_core.runtime.terminal import escaped

# Rich takes 80 columns for a pipe, which cuts the names.
console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)


def log(line: str) -> None:
    """Print a line, control characters made visible."""
    console.print(escaped(line), soft_wrap=True)
