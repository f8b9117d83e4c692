"""Models made smaller and faster: int8, and Paddle-Lite for phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ppcls_core.cli.console import console, log
from ppcls_core.cli.export import Classes, Model, Overrides, Size, Weights
from ppcls_core.cli.paddle import late, start_paddle
from ppcls_core.inference import int8, sidecar
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.outputs import check_folder
from ppcls_core.jobs.job import load_job
from ppcls_core.jobs.lite import (
    check_out,
    convert,
    convert_int8,
    find_optimizer,
    lines,
    threads_of,
)
from ppcls_core.jobs.trained import Choice, find_trained
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.timer import Repeats

if TYPE_CHECKING:
    from ppcls_core.inference.variants import Compared


def quantize(  # noqa: PLR0913 - a command's options
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write: an exported model, and int8.")],
    weights: Weights = None,
    classes: Classes = None,
    size: Size = None,
    overrides: Overrides = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Folder or list of images; by default the YAML file's training images."),
    ] = None,
    num_images: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many to calibrate with.")
    ] = 256,
    qat: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Also train so many epochs with int8's rounding."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Of the CPU; all cores by default.")
    ] = None,
) -> None:
    """Quantise a model to int8, and compare accuracy, size and latency with fp32 and bf16.

    Writes what `ppcls export` writes and the int8 model beside it, for
    `ppcls predict --precision int8`; with --qat another such folder in it, `trained`. The
    comparison, on the YAML file's validation images, goes to compared.csv too.
    """
    trained = find_trained(model, Choice(weights, classes, size, tuple(overrides or ())))
    files = (*sidecar.FILES, int8.PROGRAM, int8.WEIGHTS, int8.RECORD)
    check_folder(out, (*files, "compared.csv"), trained.weights)
    if qat:
        check_folder(out / "trained", files, trained.weights)
    job = load_job(Path(model), overrides or []) if Path(model).is_file() else None
    num_threads = start_paddle(threads)
    steps = late("ppcls_core.jobs.quantize")
    asked = steps.Quantization(trained, job, out, calibration, num_images, qat, num_threads)
    console.print(_table(steps.run(asked, _Logged())))
    log(f"{num_threads} threads, single images; written: {out}")


class _Logged(SilentMonitor):
    """Prints a training's notes and epochs."""

    def note(self, message: str) -> None:
        log(message)

    def metrics(self, values: Mapping[str, float]) -> None:
        log("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


def _table(rows: Sequence[Compared]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "top1", "top5", "images", "MB", "ms"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in rows:
        accuracies = ("-" if x is None else f"{x:.4f}" for x in (row.top1, row.top5))
        cells = (f"{row.num_images:,}", f"{row.mbytes:.2f}", f"{row.latency_ms:.2f}")
        table.add_row(row.variant, *accuracies, *cells)
    return table


def export_lite(  # noqa: PLR0913 - a command's options
    model: Annotated[
        str, typer.Argument(help="As for `ppcls export`; or a folder of `ppcls quantize`: int8.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, .nb.")],
    weights: Weights = None,
    classes: Classes = None,
    size: Size = None,
    overrides: Overrides = None,
    target: Annotated[str, typer.Option(help="Where it will run: arm, x86, opencl ...")] = "arm",
) -> None:
    """Export a model for Paddle-Lite on phones and boards, through Lite's optimiser (opt)."""
    optimizer = find_optimizer()
    check_out(out)
    if Path(model).is_dir():
        convert_int8(optimizer, Path(model), out, target)
    else:
        trained = find_trained(model, Choice(weights, classes, size, tuple(overrides or ())))
        start_paddle(None)
        convert(optimizer, trained, out, target)
    log(f"written: {out} ({out.stat().st_size / 1e6:.2f} MB)")


def lite_benchmark(
    models: Annotated[
        list[Path], typer.Argument(metavar="EXPORTED...", help="Folders of `ppcls export`.")
    ],
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, with commas between them.")
    ] = "1,2,4",
    warmup: Annotated[int, typer.Option(min=0, max=10_000)] = 10,
    repeats: Annotated[int, typer.Option(min=1, max=100_000)] = 30,
    precision: Annotated[
        Literal["fp32", "bf16", "int8"], typer.Option(help="int8 needs `ppcls quantize`.")
    ] = "fp32",
) -> None:
    """Measure the latency of single images by number of threads, in the form of Lite's benchmark.

    Runs on Paddle's inference engine on this machine, which is not Paddle-Lite on a phone.
    """
    counts = threads_of(threads)
    opened = [Exported(model) for model in models]
    start_paddle(max(counts))
    for line in lines(opened, precision, counts, Repeats(warmup, repeats, seconds=0)):
        log(line)
