"""Printing, tables and the start of Paddle, for all commands."""

import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ppcls_core.runtime.monitor import SilentMonitor, figure_texts
from ppcls_core.runtime.paddle import import_paddle
from ppcls_core.runtime.terminal import escaped

# Rich takes 80 columns for a pipe, which cuts the names.
console = Console(
    emoji=False, highlight=False, markup=False, width=None if sys.stdout.isatty() else 120
)


def log(line: str) -> None:
    """Print a line, control characters made visible."""
    console.print(escaped(line), soft_wrap=True)


def tell(line: str) -> None:
    """Print a line on standard error, so that it does not mix with results."""
    print(escaped(line), file=sys.stderr)


class LogMonitor(SilentMonitor):
    """Prints notes and figures, such as those of an epoch."""

    def note(self, message: str) -> None:
        """Print the note."""
        log(message)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Print the figures on a line."""
        log("  ".join(figure_texts(values)))


class BarMonitor(LogMonitor):
    """Shows progress as bars too, one for each unit."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def progress(self, done: int, total: int, unit: str) -> None:
        """Move the bar of this unit."""
        if unit not in self._tasks:
            self._tasks[unit] = self._shown.add_task(unit, total=total)
        self._shown.update(self._tasks[unit], completed=done, total=total)


@contextmanager
def bars() -> Iterator[BarMonitor]:
    """A monitor whose bars are shown during the block, in a terminal or a notebook."""
    hidden = not (console.is_terminal or console.is_jupyter)
    share = TextColumn("{task.percentage:>3.0f} %", style="progress.percentage")
    columns = (TextColumn("{task.description}"), BarColumn(), share, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        yield BarMonitor(shown)


def figures_table(first: str, *titles: str) -> Table:
    """An empty table: names on the left, under `first`, and figures, under `titles`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def start_paddle(threads: int | None) -> int:
    """Import Paddle to compute with `threads` threads, all cores by default; how many they are."""
    num_threads = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # read when it is imported
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors; it reports its executors otherwise
    import_paddle()
    return num_threads


def late(name: str) -> Any:
    """The module, or object "module:name" of one, that imports Paddle, which takes seconds.

    Commands name such objects where they use them, after they have checked what they were given.
    """
    import_paddle()
    return pkgutil.resolve_name(name)
