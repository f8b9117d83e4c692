"""Images to classes, in three ways: by the inference engine, and twice by the training engine."""

import os
import sys
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from data_catalog.base.config import UserError, parse
from data_catalog.base.words import counted, reason_in_words
from ppcls_core.cli.common import console, figures_table, late, start_paddle, tell
from ppcls_core.cli.export import ModelOptions, Threads
from ppcls_core.inference.exported import Logits, find_exported
from ppcls_core.inference.inputs import given_images
from ppcls_core.inference.outputs import Writer, check_target, format_of, opened
from ppcls_core.inference.predict import Classifier, Row, classify
from ppcls_core.inference.sheet import MAX_TILES, check_sheet, write_sheet
from ppcls_core.inference.sidecar import Sidecar

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="EXPORTED",
        help="Folder of `ppcls export`, or a recipe: the student that it exported last.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "int8"],
    typer.Option(help="What the engine computes in; int8 after `ppcls quantize`."),
]
Device = Annotated[
    Literal["cpu", "gpu"] | None, typer.Option(help="By default a GPU where there is one.")
]
TOP_K = 5  # classes an image, unless asked otherwise


@dataclass(frozen=True)
class ResultOptions:
    """The images of a command that names their classes, and where it writes these."""

    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders, lists (`path` or `path label` a line, relative to the list), or "
            "- for a list on standard input.",
        ),
    ]
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes an image.")] = TOP_K
    form: Annotated[
        Literal["table", "json", "csv"] | None,
        typer.Option(
            "--format", help="json: an object a line. By default as --out ends, or a table."
        ),
    ] = None
    out: Annotated[Path | None, typer.Option(help="Write to this file, whole or not at all.")] = (
        None
    )

    def check(self) -> None:
        """Raise UserError if the results have no place; before anything is computed."""
        format_of(self.form, self.out)
        if self.out:
            check_target(self.out, self.images)

    def classes_of(self, num: int) -> int:
        """How many classes an image a model of `num` classes gives; said, where that is fewer than
        the user asked for."""
        if TOP_K != self.top_k > num:
            tell(f"--top-k {self.top_k}: the model has {counted(num, 'class')}, all are given")
        return min(self.top_k, num)

    def opened(self, top_k: int) -> AbstractContextManager[Writer]:
        """Where the results go, `top_k` classes an image."""
        return opened(format_of(self.form, self.out), self.out, top_k)


@dataclass(frozen=True)
class PredictOptions(ResultOptions):
    """The options that all three ways to predict have."""

    sheet: Annotated[
        Path | None, typer.Option(help="Draw the first 60 images with their classes (.png, .jpg).")
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Images a batch.")] = 32
    threads: Threads = None

    def check(self) -> None:
        """Raise UserError if results or sheet have no place; before anything is computed."""
        super().check()
        if self.sheet:
            check_sheet(self.sheet)
            if self.sheet.resolve() in {Path(name).resolve() for name in self.images}:
                raise UserError(f"--sheet {self.sheet}: is an input; give another name")
            if self.out and self.sheet.resolve() == self.out.resolve():
                raise UserError(f"--out and --sheet are both {self.out}: give two names")


def predict(  # noqa: PLR0913 - a command's options
    model: Folder,
    asked: PredictOptions,
    precision: Precision = "fp32",
    device: Device = None,
    no_onednn: Annotated[
        bool, typer.Option("--no-onednn", help="Without Intel's kernels.")
    ] = False,
    no_ir_optim: Annotated[
        bool, typer.Option("--no-ir-optim", help="Run the program as it was exported.")
    ] = False,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Time the first batch instead; writes nothing.")
    ] = False,
) -> None:
    """Predict on Paddle's inference engine with an exported model: the fastest way.

    An image that cannot be read is a row with the reason; then the exit status is 1.
    """
    asked.check()
    exported, num_threads = find_exported(model, tell), start_paddle(asked.threads)
    settings = {
        "precision": precision,
        "threads": num_threads,
        "device": device,
        "onednn": not no_onednn,
        "ir_optim": not no_ir_optim,
    }
    options = parse(late("ppcls_core.inference.predictor:EngineOptions"), settings, "ppcls predict")
    run = _benchmark if benchmark else _run
    run(exported.sidecar, exported.on_engine(options), asked)


def py_infer(model: Folder, asked: PredictOptions) -> None:
    """Predict on Paddle's training engine with an exported model.

    An image that cannot be read is a row with the reason; then the exit status is 1.
    """
    asked.check()
    exported = find_exported(model, tell)
    start_paddle(asked.threads)
    _run(exported.sidecar, exported.on_training_engine(), asked)


def infer(model: ModelOptions, asked: PredictOptions) -> None:
    """Predict on Paddle's training engine with a model that is not exported.

    An image that cannot be read is a row with the reason; then the exit status is 1.
    """
    asked.check()
    trained = model.find()
    start_paddle(asked.threads)
    predict_logits = late("ppcls_core.engine.evaluator:predict_logits")
    network = trained.network()
    _run(trained.sidecar(), lambda pixels: predict_logits(network, pixels), asked)


def _run(sidecar: Sidecar, predict: Logits, asked: PredictOptions) -> None:
    """Predict all images. Exits with 1 if one could not be read."""
    top_k = asked.classes_of(len(sidecar.classes))
    classifier = Classifier(predict, sidecar.preprocess, sidecar.classes, top_k)
    workers = len(os.sched_getaffinity(0))
    counts: Counter[str] = Counter()
    shown: list[Row] = []
    given = given_images(asked.images)
    with asked.opened(top_k) as writer:
        for rows in classify(classifier, given, asked.batch_size, workers):
            writer.write(rows)
            counts.update(row.reason for row in rows)
            shown += rows[: MAX_TILES - len(shown)] if asked.sheet else []
    if asked.sheet:
        write_sheet(asked.sheet, shown)
    report(counts, given.lost, asked.out, asked.sheet)


def _benchmark(sidecar: Sidecar, predict: Logits, asked: PredictOptions) -> None:
    """Print what the first batch costs."""
    time_stages = late("ppcls_core.inference.benchmark:time_stages")
    top_k = asked.classes_of(len(sidecar.classes))
    classifier = Classifier(predict, sidecar.preprocess, sidecar.classes, top_k)
    num, timings = time_stages(classifier, iter(given_images(asked.images)), asked.batch_size)
    table = figures_table("stage", "min ms", "median ms", "p99 ms", "images/s")
    for name, timing in timings.items():
        figures = np.percentile(timing, (0, 50, 99))
        table.add_row(name, *(f"{x:.3f}" for x in figures), f"{1000 * num / figures[1]:.1f}")
    console.print(table)
    console.print(f"of batches of {num}; preprocess reads and decodes, on one thread")


def report(counts: Counter[str], lost: str, *paths: Path | None) -> None:
    """Say on standard error what was done, so that it does not mix with the results.

    `counts` is of the images' reasons, `lost` what was met and is no image. Exits with 1 if an
    image has a reason.
    """
    num, bad = counts.total(), {reason: n for reason, n in sorted(counts.items()) if reason}
    said = f"{counted(num, 'image')}, {counts['']:,} predicted"
    said += "".join(f", {reason_in_words(reason)} {n:,}" for reason, n in bad.items())
    said += f"; {lost}" if lost else ""
    written = [str(path) for path in paths if path]
    said += f"; written: {', '.join(written)}" if written else ""
    sys.stdout.flush()
    tell(said)
    if num > 1 and counts["missing"] == num:
        tell("none of them is there: the paths of a list start from the list's own folder")
    if bad:
        raise typer.Exit(1)
