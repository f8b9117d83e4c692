"""From weights to a model that runs elsewhere: exported, int8, on phones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from data_catalog.base.words import counted
from ppcls_core.cli.common import LogMonitor, console, figures_table, late, log, start_paddle, tell
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.inference import int8, sidecar
from ppcls_core.inference.exported import Exported, find_exported, is_exported
from ppcls_core.inference.outputs import check_folder
from ppcls_core.jobs import lite
from ppcls_core.jobs.trained import Choice, Trained, find_student, find_trained
from ppcls_core.report.model import TOP5, percent, says_something
from ppcls_core.runtime.timer import Repeats

if TYPE_CHECKING:
    from ppcls_core.inference.variants import Compared

Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="Threads on a CPU; all cores by default.")
]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write.")]


@dataclass(frozen=True)
class ModelOptions:
    """The options by which a command is given a model that is not exported."""

    model: Annotated[
        str,
        typer.Argument(
            help="A name of `ppcls models`, a YAML file as `ppcls train` takes it, or a recipe of "
            "`ssld run`: the student that it exported last."
        ),
    ]
    weights: Annotated[
        Path | None,
        typer.Option(help="By default those of the YAML file, or those published under the name."),
    ] = None
    classes: Annotated[
        Path | None, typer.Option(help="Names, one a line; by default the classes' numbers.")
    ] = None
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Side of the images, pixels; as published.")
    ] = None
    overrides: Annotated[
        list[str] | None,
        typer.Option(*OVERRIDE, help="num_classes=10, or any a.b=value of the YAML file."),
    ] = None
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Of a recipe: its student trained on labels alone."),
    ] = False

    def find(self) -> Trained:
        """The model. Raises UserError, as `find_student` and `find_trained` do."""
        settings = tuple(self.overrides or ())
        choice = Choice(self.weights, self.classes, self.size, settings, self.baseline)
        return find_student(self.model, choice, tell) or find_trained(self.model, choice)


def export(
    model: ModelOptions,
    out: OutFolder,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also model.onnx, for any batch.")] = False,
) -> None:
    """Export a model for inference: program, weights, and how to use them (sidecar.json).

    The same form serves a trained model, a published one, and the student that a recipe of
    `ssld run` has exported last. What is written is checked against the network.

    ppcls export resnet.yaml --weights best.pdparams --out exported
    ppcls export ResNet50_vd_ssld --out exported
    ppcls export my_recipe.yaml --out exported --onnx
    ppcls export my_recipe.yaml --baseline --out exported
    """
    trained = model.find()
    check_folder(out, (*sidecar.FILES, sidecar.ONNX), trained.weights)
    start_paddle(None)
    if onnx:
        late("ppcls_core.inference.onnx:check_installed")()
    network = trained.network()
    if not onnx and (out / sidecar.ONNX).is_file():  # of what was exported here before
        (out / sidecar.ONNX).unlink()
        log(f"removed: {out / sidecar.ONNX}, of an earlier export; --onnx makes it anew")
    earlier = ", in place of an earlier one" if (out / sidecar.FILES[0]).is_file() else ""
    found = late("ppcls_core.inference.export:export")(network, trained.sidecar(), out)
    classes = counted(len(trained.classes), "class")
    log(f"written: {out}{earlier} ({classes}, logits within {found:.0e})")
    if onnx:
        found = late("ppcls_core.inference.onnx:export_onnx")(network, Exported(out))
        log(f"written: {out / sidecar.ONNX} (logits within {found:.0e})")


def export_serving(model: ModelOptions, out: OutFolder) -> None:
    """Export a model for Paddle Serving: the folders serving_server and serving_client.

    The program is of Paddle 2's format, which Paddle Serving 0.9 reads; its logits are checked.
    Classes and preprocessing are in serving_client/sidecar.json.
    """
    check_folder(out, (), None)
    trained = model.find()
    start_paddle(None)
    write = late("ppcls_core.inference.paddle_serving:export_serving")
    found = write(trained.network(), trained.sidecar(), out)
    log(f"written: {out} ({counted(len(trained.classes), 'class')}, logits within {found:.0e})")


def quantize(  # noqa: PLR0913 - a command's options
    model: ModelOptions,
    out: OutFolder,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder or list of images; by default the YAML file's or recipe's training images."
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many to calibrate with.")
    ] = 256,
    qat: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Also train so many epochs with int8's rounding."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Quantise a model to int8, and compare accuracy, size and latency with fp32 and bf16.

    Writes what `ppcls export` writes and the int8 model beside it, for
    `ppcls predict --precision int8`; with --qat another such folder in it, `trained`. The
    comparison, on the validation images of the YAML file or recipe, goes to compared.csv too.
    """
    trained = model.find()
    files = (*sidecar.FILES, int8.PROGRAM, int8.WEIGHTS, int8.RECORD)
    check_folder(out, (*files, int8.COMPARED), trained.weights)
    if qat:
        check_folder(out / int8.AWARE, files, trained.weights)
    num_threads = start_paddle(threads)
    steps = late("ppcls_core.jobs.quantize")
    asked = steps.Quantization(trained, out, calibration, num_images, qat, num_threads)
    console.print(_compared_table(steps.run(asked, LogMonitor()), len(trained.classes)))
    log(f"{counted(num_threads, 'thread')}, single images; written: {out}")


def _compared_table(rows: Sequence[Compared], num_classes: int) -> Table:
    has_top5 = says_something(TOP5, num_classes)
    table = figures_table("", "top-1, %", *["top-5, %"] * has_top5, "images", "MB", "ms")
    for row in rows:
        num, shares = row.num_images, (row.top1, *[row.top5] * has_top5)
        accuracies = ("-" if share is None else percent(share, num) for share in shares)
        cells = (f"{num:,}", f"{row.mbytes:.2f}", f"{row.latency_ms:.2f}")
        table.add_row(row.variant, *accuracies, *cells)
    return table


def export_lite(
    model: ModelOptions,
    out: Annotated[Path, typer.Option(help="File to write, .nb.")],
    target: Annotated[str, typer.Option(help="Where it will run: arm, x86, opencl ...")] = "arm",
) -> None:
    """Export a model for Paddle-Lite on phones and boards, through Lite's optimiser (opt).

    The model may also be a folder of `ppcls quantize`, which gives its int8 model.
    """
    optimizer = lite.find_optimizer()
    lite.check_out(out)
    if is_exported(Path(model.model)):
        lite.convert_int8(optimizer, Path(model.model), out, target)
    else:
        trained = model.find()
        start_paddle(None)
        lite.convert(optimizer, trained, out, target)
    log(f"written: {out} ({out.stat().st_size / 1e6:.2f} MB)")


def lite_benchmark(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="EXPORTED", help="Folders of `ppcls export`, or recipes."),
    ],
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, with commas between them.")
    ] = "1,2,4",
    warmup: Annotated[int, typer.Option(min=0, max=10_000, help="Runs before the clock.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, max=100_000, help="Runs that count.")] = 30,
    precision: Annotated[
        Literal["fp32", "bf16", "int8"], typer.Option(help="int8 needs `ppcls quantize`.")
    ] = "fp32",
) -> None:
    """Measure the latency of single images by number of threads, in the form of Lite's benchmark.

    Runs on Paddle's inference engine on this machine, which is not Paddle-Lite on a phone.
    """
    counts = lite.threads_of(threads)
    opened = [find_exported(model, tell) for model in models]
    start_paddle(max(counts))
    for line in lite.lines(opened, precision, counts, Repeats(warmup, repeats, seconds=0)):
        log(line)
