"""Work of a stage in child processes, which share neither memory nor engines with this one.

A training stage runs whole in several processes, one a device, and on a single GPU in one, so that
its memory is free afterwards and an error of the card ends no other stage:

    this process --+-- process 0, which reports its progress
                   +-- process 1 ...

They find each other by the variables that Paddle's launcher sets; this process takes the launcher's
place, so that it knows what each of them has died of.

Shards are made by `children`: Paddle's inference engine sets the number of threads of its process
and so the bits of a later training; a GPU each needs a process each. The parent alone writes them.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from data_catalog.base.config import UserError
from ppcls_core.engine.config import TrainConfig
from ppcls_core.runtime.gpu import num_gpus, own_gpu, release_memory
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from ppcls_core.runtime.processes import Child, Parent, gather, ignore
from ppcls_core.runtime.ranks import rank_environments
from ppcls_core.runtime.shards import Advance, Process, Write, run_shards
from tasks.recipe import STUDENTS, Recipe
from tasks.run.stage import Outcome, Stage, Work

# glibc gives memory back after each batch of an engine, and clearing it anew takes half the time.
_HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
_PIECE = 256  # images of a child's task, about
Make = Callable[[Any, Advance], dict[str, pa.Table]]  # of what a shard is made of, its tables
Start = Callable[..., Make]  # found by name in the child


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
    return replace(work, recipe=work.recipe.model_copy(update=own), monitor=SilentMonitor())


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


@contextmanager
def children(num: int, start: Start, *arguments: object) -> Iterator[list[Make]]:
    """`num` processes that make what `start(*arguments)` makes, on a GPU each where there are some;
    they end with the block."""
    release_memory()
    with ExitStack() as stack:
        hosts = (
            Child(f"{__name__}:open_maker", (start, *arguments), environment=_HEAP | own_gpu(n))
            for n in range(num)
        )
        yield [_maker(stack.enter_context(host)) for host in hosts]


def make_shards(  # noqa: PLR0913 - as `run_shards`
    work: Work,
    folder: str,
    num_rows: int,
    tasks: Callable[[range], Any],
    makers: Sequence[Make],
    writers: Mapping[str, Write] = MappingProxyType({}),
) -> int:
    """Make the shards of `num_rows` rows in `folder` of a stage; the number of shards.

    A task of `tasks(rows)` is a piece of a shard, so that few shards keep all `makers` busy.
    """

    def by(make: Make) -> Process:
        return lambda rows, advance: make(tasks(rows), advance)

    directory, size = work.path(folder), work.recipe.shard_size
    directory.mkdir(exist_ok=True)
    batch = work.recipe.label.batch_size
    whole = max(1, _PIECE // batch) * batch  # batches, whose size may decide the last bit
    processes = map(by, makers)
    return run_shards(
        directory, num_rows, size, work.monitor, *processes, writers=writers, piece=whole
    )


def _maker(child: Child) -> Make:
    def make(task: Any, advance: Advance) -> dict[str, pa.Table]:
        packed = child(task, advance)
        return {name: pa.ipc.open_stream(table).read_all() for name, table in packed.items()}

    return make


def open_maker(start: Start, *arguments: object) -> Callable[[Any, Parent], dict[str, pa.Buffer]]:
    """The child's function: it makes the tables of a shard, packed, and reports once an item."""
    make = start(*arguments)

    def answer(task: Any, parent: Parent) -> dict[str, pa.Buffer]:
        return {name: _packed(table) for name, table in make(task, parent.report).items()}

    return answer


def _packed(table: pa.Table) -> pa.Buffer:
    """The table in Arrow's stream format: pickling forgets which fields cannot be null."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
