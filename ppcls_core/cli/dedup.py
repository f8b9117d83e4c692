"""The search for duplicates by itself."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import pyarrow.parquet as pq
import typer

from data_catalog.base.config import UserError, override, parse
from data_catalog.base.files import LockHeld, digest_of, locked, read_json
from data_catalog.base.words import counted, reason_in_words
from data_catalog.images.collect import collect
from data_catalog.recipes import MANIFEST, near_recipe, newest_result, store_root
from ppcls_core.cli.common import bars, log
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.decisions import (
    REVIEWED,
    AfterReview,
    append_decision,
    honoured,
    read_decisions,
)
from ppcls_core.dedup.result.removal import ALTERED, TRUE, summary, verify_removal
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import (
    INDEX,
    JUDGED,
    LIST,
    RECORD,
    Search,
    check_given,
    reserved,
    stage_search,
)
from ppcls_core.report.intervals import wilson
from ppcls_core.report.model import percent
from ppcls_core.report.search import PAGE, write_search_page
from ppcls_core.runtime.cluster import LOCAL
from ppcls_core.runtime.monitor import Monitor, SilentMonitor, check

_REMOVED = "remove it"
_PAGE = "ppcls_core.serving.review:serve_review"  # imports FastAPI, which takes a while


def dedup(  # noqa: PLR0913 - a command's options
    pool: Annotated[
        Path | None, typer.Argument(help="Images: a folder (of tars too), a list, or a tar.")
    ] = None,
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
    cluster: Annotated[
        str, typer.Option(help="Address of a cluster's head, whose hosts all see pool and --out.")
    ] = LOCAL,
    review: Annotated[
        Path | None,
        typer.Option(
            help="Judge pairs on a page: the --out of a search, a recipe, or a stage's folder."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option(*OVERRIDE, help="rule=strict and other settings.")
    ] = None,
) -> None:
    """Find the pool's images that show an image of another set, however altered, or one another.

    Leaves pairs.parquet (pool_id, val_id, channel, score, inliers, margin, transform, whether a
    person judged it; also as CSV), kept.txt and rejected.csv (also as Parquet) in the folder --out,
    val_rejected.parquet with the images that could not be searched for, pairs.html to be looked at,
    and removed.json, which others can verify. Altered images of the other set are searched as well,
    to estimate the recall (-o canaries=0: none). The same command again goes on where it was
    stopped.

    --review DIR shows the pairs nearest the rule first, on a page of this machine alone. What is
    judged is kept at once in DIR/reviewed.jsonl; at the end the files of DIR follow it. A recipe's
    name or file means its stage dedup. No review changes a stage's folder: its decisions go to
    reviewed.jsonl in the current folder, which the recipe's `dedup.reviewed` then names.
    """
    if review:
        if pool or against or within or out or verify or overrides:
            raise UserError("--review DIR is given alone: the search's record names its images")
        return _review(review)
    if pool is None:
        raise UserError("give POOL, the images to search: a folder, a list or a tar")
    if not pool.exists():
        raise UserError(f"{pool}: no folder, list file or tar there; correct the path")
    if bool(against) == within:
        raise UserError("give one of --against FOLDER and --within")
    if bool(out) == bool(verify):
        raise UserError("give one of --out FOLDER and --verify LIST")
    if verify:
        return _verify(verify, pool, against)
    assert out
    config = parse(DedupConfig, override({}, overrides or []), "ppcls dedup")
    with bars() as monitor:
        result = search_given(pool, against, out, config, monitor, cluster)
    log(_listed(result.pool_counts))
    if against:
        log(f"validation: {_listed(result.val_counts)}")
    _tell_recall(result.canaries)
    return log(f"written: {out}; the pairs to look at: {out / PAGE}")


def search_given(  # noqa: PLR0913 - as the command
    pool: Path,
    against: Path | None,
    out: Path,
    config: DedupConfig,
    monitor: Monitor,
    cluster: str = LOCAL,
) -> SearchResult:
    """Search the images of `pool` for those of `against`, or within themselves, into `out`.

    Raises:
        UserError: nothing to search, an `out` within the pool or of another search, or in use.
        Interrupted: a stop was requested; finished work is kept.
    """
    given = [pool, against] if against else [pool]
    check_given(out, given)
    search = replace(_search_of(given, out, config, monitor), cluster=cluster)
    with reserved(search, given, monitor.note):
        return _finish(search, monitor)


def _search_of(given: Sequence[Path], out: Path, config: DedupConfig, monitor: Monitor) -> Search:
    sets = [collect(path, progress=partial(_show_reading, monitor)) for path in given]
    workers = len(os.sched_getaffinity(0))
    return Search(sets[0], sets[1] if len(sets) > 1 else None, out, config, workers)


def _finish(search: Search, monitor: Monitor) -> SearchResult:
    """Do what is left of a search, its decisions as they are now, and draw its page."""
    file = search.out / REVIEWED
    own = read_decisions(file if file.exists() else None)
    for key, decision in read_decisions(search.config.reviewed).by_pair.items():
        if key not in own.by_pair:  # so that a later review of the folder has them too
            append_decision(file, decision)
    decisions = read_decisions(file if file.exists() else None)
    result = find_duplicates(replace(search, decisions=decisions), monitor)
    write_search_page(search, result)
    return result


def _review(given: Path) -> None:
    """Show the pairs of a finished search until a signal; then its files follow, unless a stage of
    the pipeline left them."""
    is_search = any((given / name).exists() for name in (RECORD, MANIFEST))
    taken = "the search of that name" if is_search else ""
    if of_recipe := newest_result(str(given), "dedup", log, taken):
        labelled = newest_result(str(given), "overlap", log)
        log(f"pairs of the pool; those of the labelled images: ppcls dedup --review {labelled}")
    folder = of_recipe or given
    if (folder / MANIFEST).exists():
        return _review_stage(folder.resolve(), str(given) if of_recipe else "RECIPE")
    search, searched = _reopened(folder)
    if _has_no_pairs(folder):
        return None
    with reserved(search, searched, log):
        then = f"removed.json and the other files of {folder} then follow what was judged"
        resolve_name(_PAGE)(search, folder / REVIEWED, AfterReview(_REMOVED, then), log)
        log("the files of the search follow what was judged ...")
        result = _finish(search, SilentMonitor())
    log(_listed(result.pool_counts))
    return log(f"judged: {_listed(result.decision_counts) or 'nothing'}; written: {folder}")


def _review_stage(folder: Path, recipe: str) -> None:
    """Show the pairs of the folder of a stage of `recipe`, which stays as it is, until a signal."""
    search, file = stage_search(folder), Path(REVIEWED).absolute()
    if _has_no_pairs(folder):
        return
    kept = f"decisions go to {file}"
    steps = (
        f"in the recipe:  dedup: {{reviewed: {file}}}",
        f"or once:        ssld run {recipe} --set dedup.reviewed={file}",
    )
    if_same = _REMOVED
    if read_json(folder / MANIFEST)["stage"] == "overlap":
        steps += ("what is the same is then left out of training if overlap.remove=true is set",)
        if_same += ", if overlap.remove=true"
    try:
        with locked(store_root() / "locks" / f"review-{digest_of(str(file))[:20]}"):
            for decision in () if file.exists() else honoured(folder):
                append_decision(file, decision)
            log(kept)
            after = AfterReview(if_same, f"{kept}; next, {steps[0]}")
            resolve_name(_PAGE)(search, file, after, log)
    except LockHeld as holder:
        why = f"another review, process {holder}, writes there; wait, or go to another folder"
        raise UserError(f"{file}: {why}") from None
    decisions = read_decisions(file if file.exists() else None)
    decided = decisions.between(search.pool, search.val)
    judged = Counter(str(each.verdict) for each in decided.by_pair.values())
    log(f"judged: {_listed(judged) or 'nothing'}")
    if elsewhere := len(decisions) - len(decided):
        log(f"{file} has {counted(elsewhere, 'decision')} on other images too")
    if judged:
        log(f"next, {steps[0]}")
        for step in steps[1:]:
            log(f"{'':6}{step}")


def _has_no_pairs(folder: Path) -> bool:
    """Whether the search that left `folder` has nothing to be judged, which is told."""
    if any(pq.read_metadata(folder / f"{name}.parquet").num_rows for name in JUDGED):
        return False
    log(f"{folder}: no pair was found, nor nearly found: there is nothing to judge")
    return True


def _reopened(folder: Path) -> tuple[Search, list[Path]]:
    """The finished search that left `folder`, and the paths of its images. Raises UserError: there
    is none, or its images are not as they were."""
    if not folder.exists():
        raise UserError(
            f"{folder}: no such folder or recipe; correct the path{near_recipe(folder)}"
        )
    record, head = read_json(folder / RECORD), read_json(folder / INDEX / "index.json")
    is_search = isinstance(record, dict) and "given" in record and isinstance(head, dict)
    if not (is_search and (folder / LIST).exists()):
        raise UserError(
            f"{folder}: holds no finished search; give the --out of a `ppcls dedup`, and run that "
            "again if it was stopped"
        )
    given, again = [Path(path) for path in record["given"]], "search them again, then review"
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: the images of {folder} are not there any more; {again}")
    config = parse(DedupConfig, head["config"], str(folder))
    search = _search_of(given, folder, config, SilentMonitor())
    if list(search.digests) != record["images"]:
        raise UserError(f"{folder}: its images have changed since they were searched; {again}")
    return search, given


def _show_reading(monitor: Monitor, done: int, total: int) -> None:
    monitor.progress(done, total, "images read")
    check(monitor)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason_in_words(name)} {count:,}" for name, count in counts.items())


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
        if pair.verdict not in TRUE:
            log(f"{pair.image_id} - {pair.val_id}: {pair.verdict} ({pair.detail})")
    counts = summary(verified)
    log(_listed(counts))
    if sum(counts[verdict] for verdict in TRUE) < len(verified):
        raise UserError(f"{path}: not all of its {counted(len(verified), 'pair')} agree")
    if ALTERED in notes:
        raise UserError(f"{path}: {ALTERED}; ask for the list as it was written")
