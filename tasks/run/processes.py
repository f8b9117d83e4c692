"""A training stage in processes of its own, one a device; and the shards of the stages that label.

A training runs on a single GPU in one process too, so that its memory is free afterwards and an
error of the card ends no other stage:

    this process --+-- process 0, which reports its progress
                   +-- process 1 ...

They find each other by the variables that Paddle's launcher sets; this process takes the launcher's
place, so that it knows what each of them has died of.

Shards are made and written by threads, each with a process that runs the network
(`ppcls_core.inference.engines`): of this process, or of the workers of a cluster.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pkgutil import resolve_name

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.engine.config import TrainConfig
from ppcls_core.inference.engines import Engines
from ppcls_core.runtime.cluster import LOCAL, run_on
from ppcls_core.runtime.gpu import num_gpus, release_memory
from ppcls_core.runtime.monitor import Interrupted, Monitor, SilentMonitor
from ppcls_core.runtime.processes import Child, Parent, gather, ignore
from ppcls_core.runtime.ranks import rank_environments
from ppcls_core.runtime.shards import Process, ShardJob, Write
from tasks.recipe import STUDENTS, Recipe
from tasks.run.stage import Outcome, Stage, Work

_PIECE, _BATCHES = 64, 4  # images of a maker's task, about, and batches at least
Opening = Callable[[Work], AbstractContextManager[Sequence[Process]]]
"""What makes the shards of a stage, opened for the block; it can be pickled."""


def trainings(recipe: Recipe) -> dict[str, TrainConfig]:
    """The settings of each stage that trains by steps."""
    found: dict[str, TrainConfig] = {name: getattr(recipe, name) for name in STUDENTS}
    own = recipe.network and recipe.network.train
    return found | {"teacher": own} if isinstance(own, TrainConfig) else found


def check_devices(recipe: Recipe) -> None:
    """Raise UserError if there are fewer devices than asked for, or they cannot share a batch."""
    run_time = recipe.run_time
    if run_time.devices == run_time.hosts == 1:
        return
    if run_time.hosts > 1 and run_time.cluster == LOCAL:
        raise UserError(
            f"run_time.hosts: got {run_time.hosts} without a cluster; set run_time.cluster to the "
            "address of its head"
        )
    if run_time.hosts == 1 and 0 < num_gpus() < run_time.devices:
        raise UserError(
            f"run_time.devices: got {run_time.devices}, but there are only "
            f"{counted(num_gpus(), 'GPU')}; take at most that number"
        )
    devices = run_time.hosts * run_time.devices
    for name, config in trainings(recipe).items():
        if config.batch_size % (parts := devices * config.accumulate):
            raise UserError(
                f"{name}: {devices} devices with accumulate {config.accumulate} cannot share a "
                f"batch_size of {config.batch_size} equally; take a multiple of {parts}"
            )


def run_in_processes(stage: Stage, work: Work, first_gpu: int = 0) -> Outcome:
    """The outcome of `stage`, run in as many processes as its recipe has devices, the first on GPU
    `first_gpu` if there are some. Raises as `run_ranks`."""
    monitor = work.monitor

    def report(kind: str, *values: object) -> None:
        getattr(monitor, kind)(*values)

    environments = rank_environments(work.recipe.run_time.devices, first_gpu)
    try:
        return run_ranks(stage, work, environments, report, lambda: monitor.stop_requested)
    except UserError:
        if monitor.stop_requested:  # a process that was killed with this one by who stops it
            raise Interrupted from None
        raise


def run_ranks(
    stage: Stage,
    work: Work,
    environments: Sequence[Mapping[str, str]],
    report: Callable[..., None],
    stop_requested: Callable[[], bool],
) -> Outcome:
    """The outcome of `stage`, run in a process of this machine for each of `environments`; the
    first process of all reports its progress.

    Raises UserError, OSError, Interrupted: as the stage itself, or a process was killed; Exception:
    a defect, with the traceback of the process.
    """
    first = environments[0]["PADDLE_TRAINER_ID"]
    logs, own = work.path(f"log-{first}"), _share(work, len(environments))
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(mode=0o700)

    def start(variables: Mapping[str, str]) -> Child:
        rank = variables["PADDLE_TRAINER_ID"]
        return Child(
            f"{__name__}:open_stage",
            (stage, own),
            name=f"process {rank} of stage {work.stage}",
            remedy="run again: it goes on from its checkpoint",
            environment=variables,
            log=logs / f"{rank}.log",
        )

    try:
        with ExitStack() as stack:
            release_memory()  # the first process needs what this one's stages have had
            processes = [stack.enter_context(start(one)) for one in environments]
            outcome, *_ = gather(processes, None, report, stop_requested)
    finally:
        shutil.rmtree(logs)
    return outcome


def _share(work: Work, num: int) -> Work:
    """`work` as each of `num` processes gets it: with its share of the loader's threads."""
    own = {"workers": max(1, work.recipe.run_time.workers // num)}
    run_time = work.recipe.run_time.model_copy(update=own)
    recipe = work.recipe.model_copy(update={"run_time": run_time})
    return replace(elsewhere(work), recipe=recipe)


def elsewhere(work: Work) -> Work:
    """`work` as it can be pickled, for another process: no monitor, no processes."""
    return replace(work, monitor=SilentMonitor(), engines=Engines())


def here(work: Work) -> Work:
    """`work` that has come from another host, with all that this one has."""
    own = {"workers": len(os.sched_getaffinity(0)), "devices": max(1, num_gpus())}
    run_time = work.recipe.run_time.model_copy(update=own)
    return replace(work, recipe=work.recipe.model_copy(update={"run_time": run_time}))


@dataclass(frozen=True)
class _ParentMonitor:
    """The Monitor of the process that started the stage, which calls `report` tells."""

    parent: Parent
    report: Callable[..., None]

    @property
    def stop_requested(self) -> bool:
        return self.parent.stop_requested

    def progress(self, done: int, total: int, unit: str) -> None:
        self.report("progress", done, total, unit)

    def metrics(self, values: Mapping[str, float]) -> None:
        self.report("metrics", dict(values))

    def note(self, message: str) -> None:
        self.report("note", message)


def open_stage(stage: Stage, work: Work) -> Callable[[None, Parent], Outcome]:
    """The child's function: it runs the stage once and gives its outcome."""

    def answer(request: None, parent: Parent) -> Outcome:
        world = resolve_name("ppcls_core.engine.distributed:join")()
        monitor = _ParentMonitor(parent, parent.report if world.is_first else ignore)
        return stage.run(replace(work, monitor=monitor))

    return answer


@dataclass(frozen=True)
class _StageOpening:
    """Opens the processes of a stage here, or, pickled, on another host."""

    opening: Opening
    work: Work

    def __call__(self, monitor: Monitor) -> AbstractContextManager[Sequence[Process]]:
        return self.opening(replace(self.work, monitor=monitor))

    def __reduce__(self) -> tuple[object, ...]:
        return _opening_here, (self.opening, elsewhere(self.work))


def _opening_here(opening: Opening, work: Work) -> _StageOpening:
    return _StageOpening(opening, here(work))


def make_shards(
    work: Work,
    folder: str,
    num_rows: int,
    opening: Opening,
    writers: Mapping[str, Write] | None = None,
) -> int:
    """Make the shards of `num_rows` rows in `folder` of a stage, here or by the recipe's cluster;
    the number of shards.

    A task is a piece of a shard, so that few shards keep all of a host's processes busy, and that
    they end at about the same time.
    """
    directory, batch = work.path(folder), work.recipe.label.batch_size
    directory.mkdir(exist_ok=True)
    job = ShardJob(
        directory,
        num_rows,
        work.recipe.shard_size,
        _StageOpening(opening, work),
        writers or {},
        # Whole batches, whose size may decide the last bit; more than one, as the next is loaded
        # ahead.
        piece=max(_BATCHES, _PIECE // batch) * batch,
        on_gpu=True,
    )
    return run_on(work.recipe.run_time.cluster, job, work.monitor)
