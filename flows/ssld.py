"""The flow `ssld`: the stages of tasks/dag.py in order, each a Prefect task.

A stage whose inputs, settings and code version are unchanged ends as Cached; the store alone
decides that, so a run from the command line and a deployment share their results.

A training that leaves a core free runs in a process of its own, beside the stages that do not wait
for it: the baseline beside the duplicate search, the labels and the distillation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from data_catalog.base.config import UserError
from flows.dashboard import publish, stage_monitor
from ppcls_core.engine.config import LabelTraining
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor, stop_on_signals
from ppcls_core.runtime.paddle import import_paddle
from tasks.dag import OF_STUDENT, needed_for
from tasks.recipe import load_recipes
from tasks.run.processes import trainings
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result, Store

_LEAVES_A_CORE = "tasks.stages.training:leaves_a_core"  # imports Paddle


def _run_name() -> str:
    """The recipe's name and what is set otherwise, which tells runs of one recipe apart."""
    given = flow_run.parameters
    recipe = Path(given.get("recipe") or "demo")
    name = recipe.stem if recipe.suffix in (".yaml", ".yml") else str(recipe)
    return " ".join([name, *(given.get("settings") or ())])


@flow(name="ssld", flow_run_name=_run_name, validate_parameters=True)
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
        return _failure(_elsewhere(recipe) or error)
    session, shared = Session(recipes[0], Store.default(), again), dict[str, tuple[Result, State]]()
    with session.engines.kept():
        for each in recipes:
            of = f" of {each.name}" if len(recipes) > 1 else ""
            run = _Run(session.of(each), of)
            for result, state in shared.values():
                run.session.accept(result)
                run.states[result.stage] = state
            if failure := run.all([stage for stage in stages if stage.name not in shared]):
                return Failed(message=failure)
            common = run.states.keys() - OF_STUDENT
            shared = {name: (run.session.done[name], run.states[name]) for name in common}
    return Completed(message=f"{recipe}: {until} is done")


@dataclass
class _Run:
    """A run of one recipe's stages; `of` follows the name of those that each student has."""

    session: Session
    of: str
    states: dict[str, State] = field(default_factory=dict)  # of the stages that are done
    _beside: tuple[Stage, PrefectFuture[Any]] | None = None
    _stops: Callable[[], bool] = bool

    def all(self, stages: list[Stage]) -> str | None:
        """Run `stages`, each after those that it reads from; the message of one that failed."""
        todo, gave_up = list(stages), False
        with stop_on_signals(raise_again=True) as stop:
            self._stops = lambda: stop.is_set or gave_up
            try:
                while todo or self._beside:
                    if failure := self._go_on(todo):
                        return failure
                    if stop.is_set:
                        raise Interrupted
            finally:
                gave_up = True
                if self._beside:
                    self._beside[1].wait()  # until it has saved its work
        return None

    def _go_on(self, todo: list[Stage]) -> str | None:
        """Start a stage beside, or wait for it, or run one; the message of one that failed."""
        ready = [one for one in todo if self.states.keys() >= set(one.upstream)]
        if self._beside and (not ready or self._beside[1].state.is_final()):
            stage, future = self._beside
            future.wait()
            self._beside = None
            return self._ended(stage, future.state)
        others = ready if len(ready) > 1 and not self._beside else []
        if stage := next(filter(self._fits_beside, others), None):
            todo.remove(stage)
            self._beside = stage, self._task(stage, apart=True).submit(self._arrows(stage))
            return None
        stage = ready[0]
        todo.remove(stage)
        return self._ended(stage, self._task(stage)(self._arrows(stage)))

    def _fits_beside(self, stage: Stage) -> bool:
        """Whether `stage` is a training on labels that has to run and leaves a core to others."""
        session, config = self.session, trainings(self.session.recipe).get(stage.name)
        if not isinstance(config, LabelTraining) or session.recipe.run_time.devices > 1:
            return False
        try:
            result, _ = session.find(stage)
        except UserError:  # which its task will tell
            return False
        if result and not session.must_run(stage, result):
            return False
        import_paddle()  # now, in silence
        return resolve_name(_LEAVES_A_CORE)(session.work(stage, SilentMonitor()), config)

    def _ended(self, stage: Stage, state: State) -> str | None:
        """The message of a `state` that is a failure."""
        if not state.is_completed():
            return state.message or state.name
        self.states[stage.name] = state
        return None

    def _arrows(self, stage: Stage) -> list[State]:
        """The states that the dashboard's graph draws arrows from."""
        return [self.states[name] for name in stage.upstream]

    def _task(self, stage: Stage, apart: bool = False) -> Any:
        """`stage` as a Prefect task; `apart`: it runs in a process of its own."""
        title = stage.name + (self.of if stage.name in OF_STUDENT else "")

        @task(name=stage.name, task_run_name=title, cache_policy=NO_CACHE, persist_result=False)
        def run(upstream: list[Any]) -> Any:
            try:
                return self._result(stage, apart)
            except UserError as error:
                return _failure(error)
            except Interrupted:  # the signal is raised again when all stages have stopped
                return Crashed(message="stopped on request")

        return run

    def _result(self, stage: Stage, apart: bool) -> State:
        logger = get_run_logger()
        result, reason = self.session.find(stage)
        if result and not self.session.must_run(stage, result):
            self.session.accept(result)
            message = f"unchanged: {result.directory}"
            return Completed(name="Cached", message=message, data=_link(result))
        logger.info("starts: %s", "asked for" if result else reason)
        import_paddle()  # now, in silence; a cached run does without its 3 s
        with stage_monitor(logger, self._stops) as monitor:
            result = self.session.run(stage, monitor, apart)
        publish(self.session, result)
        seconds = result.record["seconds"]
        return Completed(message=f"{seconds:.1f} s: {result.directory}", data=_link(result))


def _elsewhere(recipe: str) -> UserError | None:
    """The error of a relative path that a deployment was given in another folder than its own."""
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") or path.is_absolute() or path.exists():
        return None
    return UserError(
        f"recipe {recipe}: no such file in {Path.cwd()}, where runs of a deployment start; give "
        "its absolute path"
    )


def _link(result: Result) -> dict[str, str]:
    """Place of a result, which alone travels between tasks: never data."""
    return {"stage": result.stage, "key": result.key, "directory": str(result.directory)}


def _failure(error: UserError) -> State:
    get_run_logger().error("%s", error)
    return Failed(message=str(error))
