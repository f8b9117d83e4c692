"""The search for duplicates by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from data_catalog.config import UserError, override, parse
from ppcls_core.commands.console import console, log
from ppcls_core.monitor import SilentMonitor


def dedup(  # noqa: PLR0913 - a command's options
    pool: Annotated[Path, typer.Argument(help="Images: a folder (of tars too), a list, or a tar.")],
    against: Annotated[
        Path | None, typer.Option(help="The images that the pool must not show.")
    ] = None,
    within: Annotated[
        bool, typer.Option("--within", help="The pool's images that show one another.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the result.")] = None,
    verify: Annotated[
        Path | None, typer.Option(help="A removed.json, to be verified on these images.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="rule=strict and other settings.")
    ] = None,
) -> None:
    """Find the pool's images that show an image of another set, however altered, or one another.

    Leaves pairs.parquet (pool_id, val_id, channel, score, inliers, transform), kept.parquet and
    rejected.parquet in the folder --out, and removed.json, which others can verify. The same
    command again goes on where it was stopped.
    """
    if bool(against) == within:
        raise UserError("give one of --against FOLDER and --within")
    if bool(out) == bool(verify):
        raise UserError("give one of --out FOLDER and --verify LIST")
    if verify:
        return _verify(verify, pool, against)
    from ppcls_core.dedup.command import Search
    from ppcls_core.dedup.command import dedup as search
    from ppcls_core.dedup.config import DedupConfig

    assert out
    config = parse(DedupConfig, override({}, overrides or []), "ppcls dedup")
    workers = len(os.sched_getaffinity(0))
    hidden = not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as progress:
        counts = search(Search(pool, against, out, config, workers), _Shown(progress))
    log(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return log(f"written: {out}")


def _verify(path: Path, pool: Path, against: Path | None) -> None:
    from ppcls_core.dedup.removal import summary, verify_removal

    verified = verify_removal(path, pool, against)
    for pair in verified:
        if pair.verdict != "agrees":
            log(f"{pair.image_id} - {pair.val_id}: {pair.verdict} ({pair.detail})")
    counts = summary(verified)
    log(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if counts["agrees"] < len(verified):
        raise UserError(f"{path}: not all of its {len(verified):,} pairs agree")


class _Shown(SilentMonitor):
    """Shows progress as a bar."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def progress(self, done: int, total: int, unit: str) -> None:
        if unit not in self._tasks:
            self._tasks[unit] = self._bars.add_task(unit, total=total)
        self._bars.update(self._tasks[unit], completed=done)
