"""`ppcls search`: the hyper-parameters of a training."""

from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Annotated

import typer

from ppcls_core.cli.common import log
from ppcls_core.cli.training import ConfigOptions, Overrides
from ppcls_core.jobs.tuning.settings import Sampler, SearchSettings, check_installed
from ppcls_core.runtime.monitor import Interrupted

_RUN, _REPORT = "ppcls_core.jobs.tuning.run", "ppcls_core.report.tuning"  # import Optuna


@dataclass(frozen=True)
class SearchOptions:
    """How to search."""

    sampler: Annotated[Sampler, typer.Option(help="How points are chosen.")] = "bayes"
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Points in all; by default a tenth, for a grid every one."),
    ] = None
    repeats: Annotated[int, typer.Option(min=1, help="Seeds a point; their mean counts.")] = 1
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Train hopeless points to the end too.")
    ] = False
    storage: Annotated[
        str | None,
        typer.Option(help="URL of a database (sqlite:///x.db); by default a file in the output."),
    ] = None


def search(
    config: ConfigOptions,
    space: Annotated[
        str,
        typer.Option(help="'transfer', the 196 points of PaddleClas's manual, or a YAML file."),
    ],
    how: SearchOptions,
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes that train at once.")] = 1,
) -> None:
    """Search for the hyper-parameters of a training; the same command again goes on.

    The best settings (best.yaml), all trials (trials.csv) and a page of plots (search.html) go to
    the folder `search` beside the training's own files.
    """
    check_installed()
    run, report = map(import_module, (_RUN, _REPORT))
    given = asdict(how)
    settings = SearchSettings(prune=not given.pop("no_prune"), **given)
    wanted = run.make_search(config.path, overrides or [], space, settings, log)
    try:
        run.run_trials(wanted, jobs, log)
    except Interrupted:
        report.write_search_results(wanted, log)
        raise
    report.write_search_results(wanted, log)
