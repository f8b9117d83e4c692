"""The command that tries what works on this machine."""

import os
import platform
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted
from ppcls_core.cli.common import console, late, log, start_paddle
from ppcls_core.runtime.gpu import gpu_names
from ppcls_core.runtime.versions import check_builds, cuda_of_paddle, installed_versions

if TYPE_CHECKING:
    from ppcls_core.jobs.doctor import Cell

MODULES = ("paddle", "faiss", "cv2", "onnxruntime", "numpy", "prefect")
FEW = 3  # devices, of which each has room for its figures


def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Try every GPU; without one, say why there is none.")
    ] = False,
) -> None:
    """Try what works on this machine: training, inference, search, several devices, each small.

    The CPU and the first GPU, if there is one, are compared; the exit status is 1 where something
    that is there fails.
    """
    begun = time.monotonic()
    _describe(start_paddle(None))
    module = late("ppcls_core.jobs.doctor")
    found, started = module.devices(gpu), time.monotonic()
    rows: list[tuple[str, list[Cell]]] = []
    with console.status("trying ...") as status:
        for title, cells in module.examine(found):
            rows.append((title, cells))
            status.update(f"tried: {title}")
    console.print(_table(list(found), rows))
    start, trials = started - begun, time.monotonic() - started
    log(f"in all {start + trials:.1f} s: {start:.1f} to start, {trials:.1f} for the trials")
    failed = [
        f"{device}, {title}: {cell.detail}"
        for title, cells in rows
        for device, cell in zip(found, cells, strict=True)
        if cell.state == "fails"
    ]
    for line in failed:
        log(f"fails: {line}")
    if failed:
        raise typer.Exit(1)


def _describe(threads: int) -> None:
    """Print what is installed, and on what."""
    versions = {"Python": platform.python_version(), **installed_versions(MODULES)}
    log(", ".join(f"{name} {version}" for name, version in versions.items()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpus = ", ".join(gpu_names()) or "no GPU"
    build = cuda_of_paddle()
    log(
        f"{counted(os.cpu_count() or 1, 'core')}, {counted(threads, 'thread')}, {memory:.0f} GB of "
        f"memory, {gpus}; Paddle is built for {build or 'the CPU'}"
    )
    try:
        check_builds(build)
    except UserError as error:
        log(f"fails: {error}")


def _table(devices: list[str], rows: "list[tuple[str, list[Cell]]]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", *devices):
        table.add_column(title)
    for title, cells in rows:
        detailed = len(devices) <= FEW
        texts = (
            f"{cell.state:5}  {cell.detail}" if detailed and cell.state != "fails" else cell.state
            for cell in cells
        )
        table.add_row(title, *texts)
    return table
