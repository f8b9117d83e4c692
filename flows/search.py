"""The deployment `ssld/search`: `ppcls search` under Prefect, a task a trial.

The study is in its storage, as on the command line: a run that was cancelled or has crashed goes on
when it is run again, and what is done is not trained again.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import artifacts, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted
from ppcls_core.jobs.tuning.settings import SearchSettings, check_installed
from ppcls_core.runtime.monitor import STOPPED, Interrupted, stop_on_signals

_RUN, _WORKERS, _REPORT = (  # import Optuna, which is an extra
    f"ppcls_core.{name}" for name in ("jobs.tuning.run", "jobs.tuning.workers", "report.tuning")
)


@flow(name="ssld", flow_run_name="search {config}", validate_parameters=True)
def search(
    config: str,
    space: str = "transfer",
    overrides: list[str] | None = None,
    how: SearchSettings = SearchSettings(),  # noqa: B008 - immutable; Prefect shows its fields
    jobs: int = 1,
) -> Any:
    """Search for the hyper-parameters of a training; what is done is not trained again.

    Args:
        config: YAML of `ppcls train`, ours or PaddleClas's.
        space: `transfer`, the 196 points of PaddleClas's manual, or a YAML file.
        overrides: of the training, of the form `a.b=value`.
        how: sampler, number of trials, seeds a point, pruning, storage.
        jobs: processes that train at once.
    """
    log = get_run_logger().info
    try:
        check_installed()
        run, report = map(import_module, (_RUN, _REPORT))
        wanted = run.make_search(Path(config), overrides or [], space, how, log)
        left = run.announce(wanted, log)
        with stop_on_signals(raise_again=True) as stop:
            workers = import_module(_WORKERS).Workers(wanted, min(jobs, left), stop, log)
            with workers:
                for _ in workers.trials(left, lambda: _trial(workers, run.trial_line)):
                    pass
        found = report.write_search_results(wanted, log)
    except Interrupted:  # by SIGINT: a SIGTERM is raised again
        return Cancelled(message=STOPPED)
    except UserError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))
    _publish(wanted.folder / report.PAGE, found)
    return Completed(
        message=f"{counted(len(found.rows), 'point')} tried; {wanted.folder / report.PAGE}"
    )


@task(name="trial", cache_policy=NO_CACHE, persist_result=False)
def _trial(workers: Any, line_of: Any) -> State:
    """One trial: complete, named Pruned, or failed for a reason."""
    row = workers.trial()
    if row is None:
        return Completed(name="NothingLeft", message="another search has tried the rest")
    message = line_of(row)
    get_run_logger().info("%s", message)
    if row.state == "failed":
        return Failed(message=message)
    return Completed(name=row.state.capitalize(), message=message)


def _publish(page: Path, found: Any) -> None:
    rows = [
        {"trial": row.number, "state": row.state, "top1": row.mean} | row.values
        for row in found.rows
    ]
    artifacts.create_table_artifact(rows, key="search-trials", description="Points that were tried")
    text = f"# Search\n\n[{page}]({page.absolute().as_uri()})\n"
    artifacts.create_markdown_artifact(text, key="search", description="The page of this search")
