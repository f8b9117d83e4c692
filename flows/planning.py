"""`ssld plan`: what a run will take, before it is begun."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted, duration
from flows.commands import Recipe, Settings
from ppcls_core.cli.common import log
from ppcls_core.runtime.gpu import gpu_names
from ppcls_core.runtime.paddle import import_paddle
from tasks.recipe import load_recipes
from tasks.run.store import Store

if TYPE_CHECKING:
    from tasks.plan.estimate import Machines, StagePlan
    from tasks.plan.sample import Sample

_SAMPLE, _ESTIMATE = "tasks.plan.sample", "tasks.plan.estimate"  # import Paddle
BUSY = 0.2  # cores of others, from which on times by the clock are doubted
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_TIMES = {"hours": 1.0, "minutes": 60.0}  # an hour in units of time; else seconds
_MANY = 100  # of a unit of time: with fewer in all, the figures of some stages would say nothing
console = Console(emoji=False, highlight=False, soft_wrap=True)


def plan(  # noqa: PLR0913 - options of a command
    recipe: Recipe,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Images of the pool, where they are not there yet.")
    ] = None,
    val: Annotated[int | None, typer.Option(min=1, help="Validation images, likewise.")] = None,
    train: Annotated[int | None, typer.Option(min=1, help="Training images, likewise.")] = None,
    hosts: Annotated[int, typer.Option(min=1, help="Hosts that the run is to have.")] = 1,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores of a host; by default as many as here.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of a host; by default as many as here.")
    ] = None,
    gpu_rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=RATE",
            help="Images a second of one GPU, where it is not here: label=2300. Repeatable.",
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """Say what a run will take: time, cores, GPUs, memory, disk and network of each stage."""
    given = {name: num for name, num in (("pool", pool), ("val", val), ("train", train)) if num}
    resolved = load_recipes(recipe, settings or [], lacking="leave")
    rates = dict(_rates(gpu_rate or []))
    with console.status("Paddle is imported"):
        import_paddle()
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it says much of how it loads
    sample_of, estimate = resolve_name(f"{_SAMPLE}:take_sample"), resolve_name(_ESTIMATE)
    num_gpus = len(gpu_names()) if gpus is None else gpus
    machines = estimate.Machines(hosts, cores or num_cores(), num_gpus, rates)
    machines.check()
    for each in resolved:
        with TemporaryDirectory(prefix="ssld-plan-") as folder:
            with console.status("sample: data") as status:
                tell = partial(_tell, status)
                sample = sample_of(each, given, rates, Path(folder), tell)
            rows = estimate.plan(sample, machines)
        print_plan(sample, machines, rows, _last_seconds(each.name))


def _tell(status: Status, stage: str) -> None:
    status.update(f"sample: {stage}")
    if not console.is_terminal:  # which alone shows that
        log(f"sample: {stage}")


def _rates(given: Sequence[str]) -> Iterator[tuple[str, float]]:
    for text in given:
        name, _, number = text.partition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not rate > 0:
            raise UserError(f"--gpu-rate: got '{text}', expected STAGE=IMAGES_A_SECOND: label=2300")
        yield name, rate


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _last_seconds(recipe: str) -> dict[str, float]:
    """Seconds that each stage of the last run of this recipe took, by the store."""
    store = Store.default()
    found = {stage: store.load(stage, key) for stage, key in store.last(recipe).items()}
    return {stage: result.record["seconds"] for stage, result in found.items() if result}


def print_plan(
    sample: "Sample", machines: "Machines", rows: "Sequence[StagePlan]", last: dict[str, float]
) -> None:
    """Print the plan as a table, without its empty columns, and what the figures rest on; `last`
    has the seconds of each stage in the last run."""
    total = [sum(getattr(row, name) for row in rows) for name in ("core_hours", "gpu_hours")]
    (core, in_core), (gpu, in_gpu) = map(_unit, total)
    names = ["images", f"core {core}", f"GPU {gpu}", "time", "memory", "read", "written", "network"]
    lines = [
        [
            row.stage,
            f"{row.images:,}" if row.images else "",
            f"{in_core * row.core_hours:,.1f}",
            f"{in_gpu * row.gpu_hours:,.1f} ({row.basis})" if row.basis else "",
            duration(row.seconds),
            *(size(number) for number in (row.memory, row.disk_in, row.disk_out, row.network)),
            *([duration(last[row.stage]) if row.stage in last else ""] if last else []),
        ]
        for row in rows
    ]
    seconds = sum(row.seconds for row in rows)
    moved = (size(sum(getattr(row, n) for row in rows)) for n in ("disk_in", "disk_out", "network"))
    hours = (f"{in_core * total[0]:,.1f}", f"{in_gpu * total[1]:,.1f}" if total[1] else "")
    ran = [duration(sum(last.values()))] if last else []
    lines.append(["in all", "", *hours, duration(seconds), "", *moved, *ran])
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ["stage", *names, *(["last run"] if last else [])]
    columns = zip(heads, zip(*lines, strict=True), strict=True)
    filled = {head: cells for head, cells in columns if any(cells)}  # 80 letters have no more room
    for head in filled:
        table.add_column(head, justify="left" if head == "stage" else "right", no_wrap=True)
    *each, all_of_them = zip(*filled.values(), strict=True)
    for line in each:
        table.add_row(*line)
    table.add_row(*all_of_them, style="bold")
    console.print(f"[bold]{sample.whole_recipe.name}[/]")
    console.print(table)
    for line in _notes(sample, machines, rows):
        console.print(f"- {line}", markup=False)


def _unit(hours: float) -> tuple[str, float]:
    """The largest unit of time of which so many hours are many, and how many make an hour."""
    fitting = (each for each in _TIMES.items() if each[1] * hours >= _MANY)
    return next(fitting, ("seconds", 3600.0))


def _notes(sample: "Sample", machines: "Machines", rows: "Sequence[StagePlan]") -> Iterator[str]:
    """What the figures rest on."""
    names = ("train", "val", "pool") if sample.has_pool else ("train", "val")
    taken = ", ".join(f"{sample.taken[name]:,} {name}" for name in names)
    gpus = f" and {', '.join(gpu_names())}" if gpu_names() else ""
    yield f"measured here, on {counted(num_cores(), 'core')}{gpus}, with a sample of {taken} images"
    hosts = f"{counted(machines.hosts, 'host')}, each" if machines.hosts > 1 else "a host"
    yield (
        f"planned for {hosts} of {counted(machines.cores, 'core')} like these and "
        f"{counted(machines.gpus, 'GPU')}, "
        "stages one after the other"
    )
    yield from sample.notes
    busy = max(one.used.others for one in sample.stages.values())
    if busy > BUSY:
        yield (
            f"other programs took up to {busy:.1f} cores meanwhile; times are reckoned from the "
            "processor's seconds, as of an idle machine: plan on an idle one to be sure"
        )
    without = [row.stage for row in rows if not row.basis and row.images]
    without = [name for name in without if name in resolve_name(f"{_ESTIMATE}:ON_GPU")]
    if machines.gpus and without:
        options = " ".join(f"--gpu-rate {name}=IMAGES_A_SECOND" for name in without)
        yield f"no GPU is here to measure these, which are planned on cores: {options}"
    if sample.whole_recipe.select.policy != "none":
        yield "no pool image is taken for a duplicate, and no class of the selection to lack images"
    yield "read: as if no file stayed in memory between epochs"
    if machines.hosts * machines.gpus > 1:
        yield "gradients that devices exchange take no time"
    yield "memory: planned rather too high, as if all of it grew with the batch"
    if machines.gpus:
        yield "memory of GPUs is not planned"


def size(number: float) -> str:
    """Bytes with a unit; "" for none."""
    power = 0
    while number >= 1000 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {_UNITS[power]}" if number else ""
