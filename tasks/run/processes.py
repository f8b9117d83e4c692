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
from ppcls_core.engine.config import TrainConfig
from ppcls_core.inference.engines import Engines
from ppcls_core.runtime.cluster import run_on
from ppcls_core.runtime.gpu import num_gpus, release_memory
from ppcls_core.runtime.monitor import Interrupted, Monitor, SilentMonitor
from ppcls_core.runtime.processes import Child, Parent, gather, ignore
from ppcls_core.runtime.ranks import rank_environments
from ppcls_core.runtime.shards import Process, ShardJob, Write
from tasks.recipe import STUDENTS, Recipe
from tasks.run.stage import Outcome, Stage, Work

_PIECE, _BATCHES = 256, 4  # images of a maker's task, about, and batches at least
Opening = Callable[[Work], AbstractContextManager[Sequence[Process]]]
"""What makes the shards of a stage, opened for the block; it can be pickled."""


def trainings(recipe: Recipe) -> dict[str, TrainConfig]:
    """The settings of each stage that trains by steps."""
    found: dict[str, TrainConfig] = {name: getattr(recipe, name) for name in STUDENTS}
    own = recipe.network and recipe.network.train
    return found | {"teacher": own} if isinstance(own, TrainConfig) else found


def check_devices(recipe: Recipe) -> None:
    """Raise UserError if there are fewer devices than asked for, or they cannot share a batch."""
    devices = recipe.run_time.devices
    if devices == 1:
        return
    if 0 < num_gpus() < devices:
        raise UserError(
            f"run_time.devices: got {devices}, but there are only {num_gpus()} GPUs; take at "
            "most that number"
        )
    for name, config in trainings(recipe).items():
        parts = devices * config.accumulate
        if config.batch_size % parts:
            raise UserError(
                f"{name}: {devices} devices with accumulate {config.accumulate} cannot share a "
                f"batch_size of {config.batch_size} equally; take a multiple of {parts}"
            )


def run_in_processes(stage: Stage, work: Work) -> Outcome:
    """The outcome of `stage`, run in as many processes as its recipe has devices. Raises UserError,
    OSError, Interrupted: as the stage itself, or a process was killed; Exception: a defect, with
    the traceback of the process."""
    monitor, own, logs = work.monitor, _share(work), work.path("log")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(mode=0o700)

    def report(kind: str, *values: object) -> None:
        getattr(monitor, kind)(*values)

    def start(rank: int, variables: Mapping[str, str]) -> Child:
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
            environments = enumerate(rank_environments(work.recipe.run_time.devices))
            processes = [stack.enter_context(start(*each)) for each in environments]
            outcome, *_ = gather(processes, None, report, lambda: monitor.stop_requested)
    except UserError:
        if monitor.stop_requested:  # a process that was killed with this one by who stops it
            raise Interrupted from None
        raise
    finally:
        shutil.rmtree(logs)
    return outcome


def _share(work: Work) -> Work:
    """`work` as each process gets it: with its share of the loader's threads, no monitor."""
    run_time = work.recipe.run_time
    workers = max(1, run_time.workers // run_time.devices)
    own = {"run_time": run_time.model_copy(update={"workers": workers})}
    recipe = work.recipe.model_copy(update=own)
    return replace(work, recipe=recipe, monitor=SilentMonitor(), engines=Engines())


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
        work = replace(self.work, monitor=SilentMonitor(), engines=Engines())
        return _opening_here, (self.opening, work)


def _opening_here(opening: Opening, work: Work) -> _StageOpening:
    """A stage's opening that has come from another host, with all that this one has."""
    own = {"workers": len(os.sched_getaffinity(0)), "devices": max(1, num_gpus())}
    run_time = work.recipe.run_time.model_copy(update=own)
    recipe = work.recipe.model_copy(update={"run_time": run_time})
    return _StageOpening(opening, replace(work, recipe=recipe))


def make_shards(
    work: Work,
    folder: str,
    num_rows: int,
    opening: Opening,
    writers: Mapping[str, Write] | None = None,
) -> int:
    """Make the shards of `num_rows` rows in `folder` of a stage, here or by the recipe's cluster;
    the number of shards.

    A task is a piece of a shard, so that few shards keep all of a host's processes busy.
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
