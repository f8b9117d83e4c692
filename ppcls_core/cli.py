"""`ppcls`: the models' command line. Paddle is imported where it is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from data_catalog.config import UserError, closest
from data_catalog.published import PublishedWeights
from ppcls_core.models.zoo import DEVICES, figure, in_order, matching, where
from ppcls_core.terminal import run_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
# Rich takes 80 columns for a pipe, which cuts the names.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@app.callback()
def _ppcls() -> None:
    """Models: what there is, what it costs, and its weights."""


@app.command()
def models(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Names, with * and ? for any; all by default.")
    ] = None,
    conditions: Annotated[
        list[str] | None, typer.Option("--where", help="Such as 'top1>=79'. Repeatable.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by a column.")] = None,
    device: Annotated[str, typer.Option(help=f"Of the latency: {', '.join(DEVICES)}.")] = "t4_fp32",
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against cost (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """List, filter and compare the published models, by their figures on ImageNet1k.

    Columns: name, top1, top5 (%), params (millions), flops (10^9 operations an image), latency (ms
    of one image as published, with TensorRT or Paddle-Lite; `ppcls benchmark` measures here).
    """
    if device not in DEVICES:
        raise UserError(f"--device: no latencies of '{device}'{closest(device, DEVICES)}")
    rows = where(matching(patterns or []), conditions or [], device)
    console.print(_models_table(in_order(rows, sort, device) if sort else rows, device))
    if plot:
        _plot(plot, rows, f"{device}_ms")


def _models_table(rows: list[PublishedWeights], device: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    for title in ("top1", "params", "flops", f"{device} ms", "pixels"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights")
    for row in rows:
        figures = [figure(row, column, device) for column in ("top1", "params", "flops", "latency")]
        table.add_row(
            row.name, *map(_number, figures), str(row.crop), "yes" if row.url else "unpublished"
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plot(path: Path, rows: list[PublishedWeights], latency: str) -> None:
    from ppcls_core.report.pareto import draw_pareto

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {path}: expected a name that ends in .png, .svg or .pdf")
    draw_pareto(path, rows, ["mparams", "gflops", latency])
    console.print(f"drawn: {path}")


@app.command()
def benchmark(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="What to measure.")],
    size: Annotated[
        int | None, typer.Option(min=32, help="Image side in pixels; as published by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on a CPU; all cores by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the figures go (CSV).")] = Path("benchmark.csv"),
) -> None:
    """Measure parameters, operations and latency on this machine, beside the published figures.

    Latencies are medians in ms a batch, with random weights: of the training engine (fp32) and of
    the inference engine in fp32 and, where the device computes in it, bf16.
    """
    threads = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Paddle reads it when it is imported
    from ppcls_core.models.registry import spec_of

    for name in names:
        spec_of(name)  # a mistyped name is told before the first is measured
    from ppcls_core.deploy.benchmark import Measured, measure, write_measured

    rows: list[Measured] = []
    for name in names:
        rows.append(measure(name, size, batch_size, threads))
        write_measured(out, rows)
    console.print(_benchmark_table(rows))
    console.print(f"{threads} threads, batch {batch_size}; written: {out}")


def _benchmark_table(rows: list) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    titles = ["px", "params M", "published", "GFLOPs", "published"]
    for title in [*titles, "training ms", "inference ms", "bf16 ms"]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        figures = [row.mparams, row.published_mparams, row.gflops, row.published_gflops]
        figures += [row.training_engine_ms, row.inference_fp32_ms, row.inference_bf16_ms]
        table.add_row(row.name, str(row.image_size), *map(_number, figures))
    return table


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Weights: a file, or a folder of Paddle 1.x.")],
    target: Annotated[
        Path, typer.Argument(help="NAME.pdparams, NAME.safetensors, or a folder to write.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Whose weights: their names are translated and checked.")
    ] = None,
    form: Annotated[
        Literal["backbone", "deploy"] | None,
        typer.Option("--as", help="backbone: for PaddleDetection; deploy: an ACNet, fused."),
    ] = None,
) -> None:
    """Convert weights between .pdparams, .safetensors and the folders of Paddle 1.x."""
    from ppcls_core.models.convert import convert as convert_weights

    done = convert_weights(source, target, model, form)
    console.print(f"{done.num_entries} entries written: {target}")
    if done.left_out:
        console.print(
            f"{len(done.left_out)} entries that are not the model's left out: "
            f"{', '.join(done.left_out[:5])}"
        )


def main() -> None:
    """Entry point of `ppcls`."""
    run_app(app)


if __name__ == "__main__":
    main()
