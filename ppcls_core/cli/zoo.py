"""The models: what there is, what it costs, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from data_catalog.base.config import UserError, closest
from data_catalog.base.words import counted
from data_catalog.published import PublishedWeights, find_published, published_weights
from ppcls_core.cli.common import console, figures_table, late, log, start_paddle
from ppcls_core.cli.export import Threads
from ppcls_core.models.registry import known_models, spec_of
from ppcls_core.models.weights.files import published_file, published_here
from ppcls_core.models.zoo import DEVICES, devices_like, figure, in_order, matching, where
from ppcls_core.report.pareto import draw_pareto

if TYPE_CHECKING:
    from ppcls_core.inference.benchmark import Measured


def models(  # noqa: PLR0913 - a command's options
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Names, with * and ? for any; all by default.")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(help="Of this chapter of the manual. Repeatable.")
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
    a batch of one image, or of 4 or 8, as published, with TensorRT or Paddle-Lite; `ppcls
    benchmark` measures here), pixels.

    Of an architecture named whole, such as ResNet18_vd, also the fields of its spec, which `spec`
    of a recipe replaces, with their defaults.

    ppcls models --series ResNet --plot resnet.png
    """
    if device not in DEVICES:
        raise UserError(f"--device: no latencies of '{device}'{closest(device, DEVICES)}")
    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {plot}: expected a name that ends in .png, .svg or .pdf")
    rows = where(matching(patterns or [], series or []), conditions or [], device)
    if not rows:
        raise UserError("no model meets all conditions; leave one out")
    console.print(_models_table(in_order(rows, sort, device) if sort else rows, device))
    for name in patterns or []:
        if name in known_models():
            fields = ", ".join(
                f"{key}={value}" for key, value in spec_of(name).model_dump().items()
            )
            log(f"spec of {name}, by default: {fields}")
    if others := [row.name for row in rows if row.package]:
        log(f"not PaddleClas's, but of Python packages: {', '.join(others)}")
    if plot:
        draw_pareto(plot, rows, _costs(device))
        log(f"drawn: {plot}")


def _costs(device: str) -> list[str]:
    """What accuracy is drawn against: of a T4 fp16 above fp32, each by batch."""
    latencies = [f"{name}_ms" for name in devices_like(device)]
    half = len(latencies) // 2
    return ["mparams", *latencies[:half], "gflops", *latencies[half:]]


def _models_table(rows: list[PublishedWeights], device: str) -> Table:
    devices = devices_like(device)
    titles = [name.rpartition("_")[2] if "_bs" in name else name for name in devices]
    table = figures_table("name", "top1", "params", "flops", *titles, "pixels")
    for row in rows:
        values = [figure(row, column, device) for column in ("top1", "params", "flops")]
        values += [figure(row, "latency", name) for name in devices]
        cells = ("-" if value is None else f"{value:.2f}" for value in values)
        table.add_row(row.name, *cells, str(row.crop))
    return table


def download(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="As `ppcls models` has them.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--path", "-p", help="Their folder; by default $SSLD_HOME/weights."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List them: here or not, and their addresses.")
    ] = False,
) -> None:
    """Download published weights: once, resumed where it broke off, checked.

    ppcls download ResNet50_vd_ssld -p pretrained
    ppcls train my.yaml -o weights=pretrained/ResNet50_vd_ssld_pretrained

    Their name alone, weights=ResNet50_vd_ssld, downloads them likewise.
    """
    rows = [find_published(name) for name in names or []]
    if listed:
        for row in rows or published_weights().values():
            is_here = published_here(row.name, folder)
            log(f"{row.name:34} {'here' if is_here else '-':5} {row.url}")
    elif not rows:
        raise UserError("give the names of the weights, or --list, which lists them")
    else:
        for row in rows:
            log(str(published_file(row.name, folder)))


def benchmark(
    names: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Names of `ppcls models`, one or several.")
    ],
    size: Annotated[
        int | None,
        typer.Option(min=32, max=2048, help="Image side in pixels; as published by default."),
    ] = None,
    batch_sizes: Annotated[
        list[int], typer.Option("--batch-size", min=1, max=1024, help="Images a batch. Repeatable.")
    ] = [1],  # noqa: B006 - Typer's form of a default
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Where the figures go (CSV).")] = Path("benchmark.csv"),
) -> None:
    """Measure parameters, operations and latency on this machine, beside the published figures.

    Latencies are medians in ms a batch, with random weights: of the training engine, of the
    inference engine without oneDNN, with it, in bf16 and in int8, and of onnxruntime; - where the
    machine, or the model, cannot. All take turns.
    """
    num_threads = start_paddle(threads)
    # Mistakes are told before anything is measured.
    engines = late("ppcls_core.inference.benchmark")
    sizes = [engines.resolve_size(name, size) for name in names]
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    rows: list[Measured] = []
    for name, side in zip(names, sizes, strict=True):
        rows += engines.measure(name, side, batch_sizes, num_threads)
        engines.write_measured(out, rows)
    console.print(_benchmark_table(rows))
    log(
        f"{counted(num_threads, 'thread')}; ms a batch, and how many times as fast as training; "
        f"what was published, and errata: {out}"
    )


def _benchmark_table(rows: list[Measured]) -> Table:
    engines = {
        "inference": "inference_plain_ms",
        "oneDNN": "inference_fp32_ms",
        "bf16": "inference_bf16_ms",
        "int8": "inference_int8_ms",
        "onnxruntime": "onnxruntime_ms",
    }
    table = figures_table("model", "px", "batch", "params M", "GFLOPs", "training", *engines)
    for row in rows:
        training = row.training_engine_ms
        counts = (str(row.image_size), str(row.batch_size))
        costs = (f"{row.mparams:.2f}", f"{row.gflops:.2f}", _ms(training))
        latencies = (_times(getattr(row, name), training) for name in engines.values())
        table.add_row(row.name, *counts, *costs, *latencies)
    return table


def _times(latency: float | None, training: float) -> str:
    return "-" if latency is None else f"{_ms(latency)} {training / latency:.1f}x"


def _ms(latency: float) -> str:
    return f"{latency:.1f}" if latency < 100 else f"{latency:.0f}"


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
    done = late("ppcls_core.models.weights.convert:convert")(source, target, model, form)
    log(f"{counted(done.num_entries, 'entry')} written: {target}")
    if model is None:
        log("their names are kept and not checked; --model NAME translates them to that model's")
    if done.left_out:
        shown = ", ".join(done.left_out[:5])
        num = counted(len(done.left_out), "entry that is", "entries that are")
        log(f"{num} not the model's left out: {shown}")
