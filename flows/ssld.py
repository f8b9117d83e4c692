"""The flow `ssld`: the stages of tasks/dag.py in order, each a Prefect task.

A stage whose inputs, settings and code version are unchanged ends as Cached; the store alone
decides that, so a run from the command line and a deployment share their results.
"""

from collections.abc import Sequence
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from data_catalog.base.config import UserError
from flows.dashboard import publish, stage_monitor
from ppcls_core.runtime.paddle import import_paddle
from tasks.dag import OF_STUDENT, needed_for
from tasks.recipe import load_recipes
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result, Store


@flow(name="ssld", flow_run_name="{recipe}", validate_parameters=True)
def ssld(
    recipe: str = "demo",
    settings: list[str] | None = None,
    until: str = "report",
    refresh: list[str] | None = None,
) -> Any:
    """Run a recipe up to a stage; what is done is not run again.

    What several students of a recipe have in common is run once, before them.

    Args:
        recipe: name of a recipe in configs/ssld, or the path of one.
        settings: overrides of the form `a.b=value`.
        until: the last stage to run, with all that it needs.
        refresh: stages to run again though they are done; ignored when Prefect retries the run.
    """
    first_attempt = (flow_run.run_count or 1) == 1  # a retry goes on, it does not begin again
    try:
        stages = needed_for(until)
        again = frozenset(refresh or ()) if first_attempt else frozenset()
        recipes = load_recipes(recipe, settings or ())
    except UserError as error:
        return _failure(error)
    common = [stage for stage in stages if stage.name not in OF_STUDENT]
    rest = [stage for stage in stages if stage.name in OF_STUDENT]
    session = Session(recipes[0], Store.default(), again)
    states: dict[str, State] = {}
    with session.engines.kept():
        failure, shared = _run_stages(session, common, states), dict(session.done)
        for each in recipes:
            session = session.of(each)
            for result in shared.values():
                session.accept(result)
            of = f" of {each.name}" if len(recipes) > 1 else ""
            failure = failure or _run_stages(session, rest, dict(states), of)
    if failure:
        return Failed(message=failure)
    return Completed(message=f"{recipe}: {until} is done")


def _run_stages(
    session: Session, stages: Sequence[Stage], states: dict[str, State], of: str = ""
) -> str | None:
    """Run `stages` in turn, their states into `states`; the message of the one that failed."""
    for stage in stages:
        state = _as_task(session, stage, of)([states[name] for name in stage.upstream])
        if state.is_failed():
            return state.message
        states[stage.name] = state
    return None


def _as_task(session: Session, stage: Stage, of: str) -> Any:
    """`stage` as a Prefect task; `upstream` draws the arrows of the dashboard's graph."""
    title = stage.name + of

    @task(name=stage.name, task_run_name=title, cache_policy=NO_CACHE, persist_result=False)
    def run(upstream: list[Any]) -> Any:
        try:
            return _run(session, stage)
        except UserError as error:
            return _failure(error)

    return run


def _run(session: Session, stage: Stage) -> State:
    logger = get_run_logger()
    result, reason = session.find(stage)
    if result and not session.must_run(stage, result):
        session.accept(result)
        return Completed(
            name="Cached", message=f"unchanged: {result.directory}", data=_link(result)
        )
    logger.info("starts: %s", "asked for" if result else reason)
    import_paddle()  # now, in silence; a cached run does without its 3 s
    with stage_monitor(logger) as monitor:
        result = session.run(stage, monitor)
    publish(session, result)
    seconds = result.record["seconds"]
    return Completed(message=f"{seconds:.1f} s: {result.directory}", data=_link(result))


def _link(result: Result) -> dict[str, str]:
    """Place of a result, which alone travels between tasks: never data."""
    return {"stage": result.stage, "key": result.key, "directory": str(result.directory)}


def _failure(error: UserError) -> State:
    get_run_logger().error("%s", error)
    return Failed(message=str(error))
