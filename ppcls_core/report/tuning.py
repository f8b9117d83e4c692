"""The files of a hyper-parameter search: best settings, table, and one page of plots."""

from collections.abc import Callable

from data_catalog.base.files import write_bytes
from data_catalog.base.words import counted
from ppcls_core.jobs.tuning.rows import Trials
from ppcls_core.jobs.tuning.run import BEST, TABLE, write_results
from ppcls_core.jobs.tuning.study import HyperSearch
from ppcls_core.report.page import render_tuning

PAGE = "search.html"


def write_search_results(search: HyperSearch, log: Callable[[str], None]) -> Trials:
    """Write what the search has found so far, log where it is, and give it. Raises UserError: all
    trials have failed."""
    found = write_results(search)
    if not found.rows:
        return found
    best = (search.folder / BEST).read_text() if found.best else ""
    repeats = f", each trained from {search.repeats} seeds" if search.repeats > 1 else ""
    num, size = len(found.rows), search.space.size
    tried = f"{num:,} of {counted(size, 'point')}" if size else counted(num, "point")
    about = f"{search.config}: {tried} tried{repeats}"
    page = render_tuning(found, best, about)
    write_bytes(search.folder / PAGE, page.encode())
    counts = [f"{n} {name}" for name in ("pruned", "failed", "running") if (n := found.count(name))]
    log(f"{found.count('complete')} complete{''.join(f', {text}' for text in counts)}")
    if found.best:
        log(f"best top1:{found.best.mean:.4f}, trial {found.best.number}: {search.folder / BEST}")
        weights = sorted(search.trial_folder(found.best.overrides).rglob("best.pdparams"))
        log(f"its weights: {weights[0].with_suffix('')}" if weights else "its weights are gone")
    log(f"written: {search.folder / PAGE}, {search.folder / TABLE}")
    return found
