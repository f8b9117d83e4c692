"""The search for duplicates by itself."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from data_catalog.base.config import UserError, override, parse
from data_catalog.images.collect import collect
from ppcls_core.cli.common import bars, log
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.result.removal import ALTERED, summary, verify_removal
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import Search, check_given, reserved
from ppcls_core.report.intervals import wilson
from ppcls_core.report.model import percent
from ppcls_core.report.search import PAGE, write_search_page
from ppcls_core.runtime.monitor import Monitor, check


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
        list[str] | None, typer.Option(*OVERRIDE, help="rule=strict and other settings.")
    ] = None,
) -> None:
    """Find the pool's images that show an image of another set, however altered, or one another.

    Leaves pairs.parquet (pool_id, val_id, channel, score, inliers, margin, transform; also as
    CSV), kept.parquet and rejected.parquet in the folder --out, val_rejected.parquet with the
    images that could not be searched for, pairs.html to be looked at, and removed.json, which
    others can verify. Altered images of the other set are searched as well,
    to estimate the recall (-o canaries=0: none). The same command again goes on where it was
    stopped.
    """
    if bool(against) == within:
        raise UserError("give one of --against FOLDER and --within")
    if bool(out) == bool(verify):
        raise UserError("give one of --out FOLDER and --verify LIST")
    if verify:
        return _verify(verify, pool, against)
    assert out
    config = parse(DedupConfig, override({}, overrides or []), "ppcls dedup")
    with bars() as monitor:
        result = search_given(pool, against, out, config, monitor)
    log(_listed(result.pool_counts))
    if against:
        log(f"validation: {_listed(result.val_counts)}")
    _tell_recall(result.canaries)
    return log(f"written: {out}; the pairs to look at: {out / PAGE}")


def search_given(
    pool: Path, against: Path | None, out: Path, config: DedupConfig, monitor: Monitor
) -> SearchResult:
    """Search the images of `pool` for those of `against`, or within themselves, into `out`.

    Raises:
        UserError: nothing to search, an `out` within the pool or of another search, or in use.
        Interrupted: a stop was requested; finished work is kept.
    """
    given = [pool, against] if against else [pool]
    check_given(out, given)
    sets = [collect(path, progress=partial(_show_reading, monitor)) for path in given]
    workers = len(os.sched_getaffinity(0))
    search = Search(sets[0], sets[1] if against else None, out, config, workers)
    with reserved(search, given, monitor.note):
        result = find_duplicates(search, monitor)
        write_search_page(search, result)
    return result


def _show_reading(monitor: Monitor, done: int, total: int) -> None:
    monitor.progress(done, total, "images read")
    check(monitor)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _tell_recall(scores: Mapping[str, Sequence[int]]) -> None:
    """Say how many canaries were found: in all, and by each attack that was not always found."""
    found, planted = (sum(score[i] for score in scores.values()) for i in (0, 1))
    if not planted:
        return
    low, high = wilson(found / planted, planted)
    log(
        f"recall estimate on these images: {found:,} of {planted:,} altered copies found, "
        f"{percent(found / planted)} % (95 % interval {percent(low)} to {percent(high)})"
    )
    missed = [f"{name} {hit} of {num}" for name, (hit, num) in scores.items() if hit < num]
    if missed:
        log(f"not always found: {', '.join(missed)}")


def _verify(path: Path, pool: Path, against: Path | None) -> None:
    verified, notes = verify_removal(path, pool, against)
    for note in notes:
        log(f"{path}: {note}")
    for pair in verified:
        if pair.verdict != "agrees":
            log(f"{pair.image_id} - {pair.val_id}: {pair.verdict} ({pair.detail})")
    counts = summary(verified)
    log(_listed(counts))
    if counts["agrees"] < len(verified):
        raise UserError(f"{path}: not all of its {len(verified):,} pairs agree")
    if ALTERED in notes:
        raise UserError(f"{path}: {ALTERED}; ask for the list as it was written")
