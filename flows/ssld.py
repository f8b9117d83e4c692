"""The flow `ssld`: the stages of tasks/dag.py in order, each a Prefect task.

A stage whose inputs, settings and code version are unchanged ends as Cached; the store alone
decides that, so a run from the command line and a deployment share their results.

Where there is room, trainings on labels run in processes of their own, beside each other and the
stages that do not wait for them. Room is a core that all of them leave free, or GPUs that no other
stage has. The duplicate search and labelling use every core, and many a training only some: on
cores, the baseline runs beside the distillation; the teacher, which the latter waits for, beside
the search.
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
from prefect.states import Cancelled, Completed, Failed

from data_catalog.base.config import UserError
from data_catalog.recipes import remember_recipe
from flows.dashboard import StageMonitor, publish, tell_failure
from ppcls_core.engine.config import LabelTraining
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.monitor import STOPPED, Interrupted, SilentMonitor, stop_on_signals
from ppcls_core.runtime.paddle import import_paddle
from ppcls_core.runtime.threads import max_threads
from tasks.dag import OF_STUDENT, following, needed_for
from tasks.recipe import digest_of_recipes, load_recipes
from tasks.run.processes import trainings
from tasks.run.reasons import reason_to_run
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result, Store

_THREADS = "tasks.stages.training:threads_of_training"  # imports Paddle
POLL_SECONDS = 0.5  # while nothing else can be begun
_ON_CORES = ("data", "overlap", "dedup", "select", "report")  # stages that need no GPU


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
        recipe: the path of a recipe, or the name of one in configs/ssld or of one that has run.
        settings: overrides of the form `a.b=value`.
        until: the last stage to run, with all that it needs.
        refresh: stages to run again though they are done; ignored when Prefect retries the run.
    """
    first_attempt = (flow_run.run_count or 1) == 1  # a retry goes on, it does not begin again
    try:
        stages = needed_for(until)
        again = frozenset(refresh or ()) if first_attempt else frozenset()
        recipes = load_recipes(recipe, settings or ())
        remember_recipe(recipe)
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
                return (Cancelled if failure == STOPPED else Failed)(message=failure)
            common = run.states.keys() - OF_STUDENT
            shared = {name: (run.session.done[name], run.states[name]) for name in common}
    return Completed(message=f"{recipe}: {until} is done", data=digest_of_recipes(recipes))


@dataclass(frozen=True)
class _Beside:
    """A training that runs beside other stages: on so many threads, or the GPUs of a group."""

    stage: Stage
    future: PrefectFuture[Any]
    threads: int
    group: int | None


@dataclass
class _Run:
    """A run of one recipe's stages; `of` follows the name of those that each student has."""

    session: Session
    of: str
    states: dict[str, State] = field(default_factory=dict)  # of the stages that are done
    _beside: list[_Beside] = field(default_factory=list)
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
                        return STOPPED
            finally:
                gave_up = True
                for one in self._beside:
                    one.future.wait()  # until it has saved its work
                if stop.is_set:
                    told = "what is done is saved, run again to go on"
                    get_run_logger().warning("%s; %s", STOPPED, told)
        return None

    def _go_on(self, todo: list[Stage]) -> str | None:
        """Start a stage beside, or wait for one, or run one; the message of one that failed."""
        ready = [one for one in todo if self.states.keys() >= set(one.upstream)]
        here = [one for one in ready if self._fits_here(one)]
        if ended := self._next_ended(must_wait=not here):
            self._beside.remove(ended)
            return self._ended(ended.stage, ended.future.state)
        if len(ready) > 1 or self._beside:
            for stage in ready:
                if self._starts_beside(stage, ready, todo):
                    todo.remove(stage)
                    return None
        stage = here[0]
        todo.remove(stage)
        return self._ended(stage, self._task(stage)(self._arrows(stage)))

    def _next_ended(self, must_wait: bool) -> _Beside | None:
        """One of those beside that has ended; if `must_wait`, the next that does."""
        while self._beside:
            for one in self._beside:
                if one.future.state.is_final():
                    one.future.wait()
                    return one
            if not must_wait:
                break
            self._beside[0].future.wait(timeout=POLL_SECONDS)
        return None

    def _fits_here(self, stage: Stage) -> bool:
        """Whether this process may run `stage` now: it has the first group of GPUs."""
        return stage.name in _ON_CORES or all(one.group != 0 for one in self._beside)

    def _starts_beside(self, stage: Stage, ready: list[Stage], todo: list[Stage]) -> bool:
        """Start `stage` beside if it is a training on labels that has to run, and there is room."""
        session, config = self.session, trainings(self.session.recipe).get(stage.name)
        is_elsewhere = session.recipe.run_time.hosts > 1
        if not isinstance(config, LabelTraining) or is_elsewhere or not self._must_run(stage):
            return False
        import_paddle()  # now, in silence
        devices, threads, group = session.recipe.run_time.devices, 0, None
        if num := num_gpus():
            taken = {one.group for one in self._beside}
            free = [number for number in range(num // devices) if number not in taken]
            if not free:
                return False
            group = free[-1]  # the first is this process's
        elif self._has_time(stage, ready, todo):
            return False
        else:
            work = session.work(stage, SilentMonitor())
            threads = devices * resolve_name(_THREADS)(work, config)
            if threads + sum(one.threads for one in self._beside) >= max_threads():
                return False
        task = self._task(stage, apart=(group or 0) * devices)
        future = task.submit(self._arrows(stage))
        self._beside.append(_Beside(stage, future, threads, group))
        return True

    def _has_time(self, stage: Stage, ready: list[Stage], todo: list[Stage]) -> bool:
        """Whether others are ready, all of which use every core, and a training comes later that
        does not read from `stage`: at one of small steps all cores but one would be idle."""
        are_trainings, after = trainings(self.session.recipe).keys(), following(stage.name)
        now = {one.name for one in ready if one is not stage}
        later = {one.name for one in todo if one not in ready and one not in after}
        return bool(now) and now.isdisjoint(are_trainings) and not later.isdisjoint(are_trainings)

    def _must_run(self, stage: Stage) -> bool:
        try:
            result = self.session.find(stage).result
        except UserError:  # which its task will tell
            return False
        return result is None or self.session.must_run(stage, result)

    def _ended(self, stage: Stage, state: State) -> str | None:
        """The message of a `state` that is a failure."""
        if not state.is_completed():
            return state.message or state.name
        self.states[stage.name] = state
        return None

    def _arrows(self, stage: Stage) -> list[State]:
        """The states that the dashboard's graph draws arrows from."""
        return [self.states[name] for name in stage.upstream]

    def _task(self, stage: Stage, apart: int | None = None) -> Any:
        """`stage` as a Prefect task; `apart` as in `Session.run`."""
        title = stage.name + (self.of if stage.name in OF_STUDENT else "")

        @task(name=stage.name, task_run_name=title, cache_policy=NO_CACHE, persist_result=False)
        def run(upstream: list[Any]) -> Any:
            try:
                return self._result(stage, apart)
            except UserError as error:
                return _failure(error)
            except Interrupted:  # the signal is raised again when all stages have stopped
                return Cancelled(message=STOPPED)

        return run

    def _result(self, stage: Stage, apart: int | None) -> State:
        logger = get_run_logger()
        found = self.session.find(stage)
        if (result := found.result) and not self.session.must_run(stage, result):
            self.session.accept(result)
            message = f"unchanged: {result.directory}"
            return Completed(name="Cached", message=message, data=_link(result))
        why = "asked for" if result else reason_to_run(self.session, stage, found).detail
        logger.info("starts: %s", why)
        import_paddle()  # now, in silence; a cached run does without its 3 s
        result = self.session.run(stage, StageMonitor(logger, self._stops), apart)
        publish(self.session, result)
        earlier = ", those before it was stopped too" if found.so_far else ""
        message = f"done in {result.record['seconds']:.1f} s{earlier}: {result.directory}"
        return Completed(message=message, data=_link(result))


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
    tell_failure(get_run_logger(), str(error))
    return Failed(message=str(error))
