"""What does labelling cost beside the teacher's bare forward pass, and what does its engine gain?

    OMP_NUM_THREADS=2 python benchmarks/labelling.py --model ResNet50_vd

In turns, medians over the repetitions, ms an image: the network itself (dygraph, fp32), the
inference engine on a batch in memory, and the label stage's work on the same engine: files to rows
of a shard. The images are like ImageNet's, made on the spot (benchmarks/input_pipeline.py).

    python benchmarks/labelling.py --cores 16

What so many cores could feed, beside an engine as fast as a card: a stand-in, which sleeps 0.3 ms
an image and meanwhile keeps Python's lock, in this process and in one of its own. From the seconds
of computing that an image takes here, and of those the ones without decoding: they are Python's,
and threads take them in turn.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name  # the other process has this file under its own name

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # read once, by Paddle

import numpy as np
from input_pipeline import write_images
from rich.console import Console
from rich.table import Table

from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import TestView, Views
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.engines import Engines, Predict
from ppcls_core.inference.predictor import Precision, has_fast_bf16
from ppcls_core.labels.labeller import label
from ppcls_core.labels.shard import Header, Origin, write_labels
from ppcls_core.labels.teacher import Item, batches, on_engine
from ppcls_core.models.registry import build_model

THREADS = int(os.environ["OMP_NUM_THREADS"])
NUM_CLASSES, BATCH_SIZE, CARD_BATCH = 1000, 32, 256
CARD_SECONDS = 0.0003  # an image


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def network(model: str, precision: Precision) -> Predict:
    """The model on the inference engine."""
    return on_engine(build_model(model, num_classes=NUM_CLASSES), 224, precision, THREADS)


def stand_in() -> Predict:
    """A network that does not compute, and keeps Python's lock as Paddle's predictor does."""
    sleep = ctypes.PyDLL(None).usleep

    def predict(pixels: np.ndarray) -> np.ndarray:
        sleep(round(1e6 * CARD_SECONDS * len(pixels)))
        return np.random.default_rng(0).normal(size=(len(pixels), NUM_CLASSES)).astype(np.float32)

    return predict


class Decoded(TestView):
    """Images that need no decoding."""

    def pixels(self, source: object, image_id: str, number: int) -> np.ndarray:
        return np.full((3, 224, 224), number, np.uint8)


def label_files(
    items: list[Item], view: Views, predict: Predict, folder: Path, size: int = BATCH_SIZE
) -> None:
    """As the label stage does it."""
    header = Header(Origin("teacher", "view"), NUM_CLASSES, "int8")
    loaded = batches(items, view, size, THREADS)
    answered = ((good, predict(pixels), bad) for good, pixels, bad in loaded)
    labels, _ = label(answered, view, header, lambda num=1: None)
    write_labels(labels, folder / "shard-00000.labels.parquet")


def feed(folder: Path, items: list[Item], cores: int) -> None:
    """Print what `cores` cores could feed."""
    times: dict[str, list[float]] = {}
    views = {
        "files": TestView(preprocess=Preprocess()),
        "decoded": Decoded(preprocess=Preprocess()),
    }
    with Engines().take(1) as (process,):
        engines = {
            "this process": stand_in(),
            "its own process": process.predictor(resolve_name("labelling:stand_in")),
        }
        for _ in range(3):
            for place, predict in engines.items():
                for kind, view in views.items():
                    begun, wall = time.process_time(), time.perf_counter()
                    label_files(items, view, predict, folder, CARD_BATCH)
                    computed = (time.process_time() - begun) / len(items)
                    times.setdefault(f"{place} {kind}", []).append(computed)
                    elapsed = (time.perf_counter() - wall) / len(items)
                    times.setdefault(f"{place} {kind} wall", []).append(elapsed)
    found = {name: statistics.median(values) for name, values in times.items()}
    table = Table("engine in", "ms of computing", "without decoding", "ms, here", f"{cores} cores")
    for place in engines:
        whole, serial, wall = (found[f"{place} {n}"] for n in ("files", "decoded", "files wall"))
        # Beside a lock that is held the threads stand still.
        idle = CARD_SECONDS if place == "this process" else 0
        most = 1 / (max(serial, whole / (cores - 1)) + idle)
        shown = (f"{1e3 * each:.2f}" for each in (whole, serial, wall))
        table.add_row(place, *shown, f"{min(most, 1 / CARD_SECONDS):,.0f} images/s")
    Console().print(table, f"{THREADS} threads, load average {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ResNet50_vd")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files, _ = write_images(folder, arguments.images)
        items: list[Item] = [(path.name, path, 0) for path in files]
        view = TestView(preprocess=Preprocess())
        if arguments.cores:
            return feed(folder, items, arguments.cores)
        eager = build_model(arguments.model, num_classes=NUM_CLASSES)
        eager.eval()
        precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16() else ["fp32"]
        processes = stack.enter_context(Engines().take(len(precisions)))
        engines = {
            p: process.predictor(resolve_name("labelling:network"), arguments.model, p)
            for p, process in zip(precisions, processes, strict=True)
        }
        loaded = batches(items, view, BATCH_SIZE, THREADS)
        in_memory = [pixels for _, pixels, _ in loaded]
        times: dict[str, list[float]] = {}

        def measure(what: str, call: Callable[[], object], num: int) -> None:
            times.setdefault(what, []).append(1e3 * seconds(call) / num)

        for _ in range(arguments.repetitions):
            measure("dygraph", lambda: predict_logits(eager, in_memory[0]), BATCH_SIZE)
            for p, predict in engines.items():
                measure(f"engine {p}", lambda f=predict: [f(x) for x in in_memory], len(items))
                call = lambda f=predict: label_files(items, view, f, folder)  # noqa: E731
                measure(f"label {p}", call, len(items))
    table = Table("", "ms an image", "label / bare", "dygraph / label", title=arguments.model)
    medians = {what: statistics.median(values) for what, values in times.items()}
    for what, value in medians.items():
        kind, _, p = what.partition(" ")
        ratios = [""] * 2
        if kind == "label":
            shares = zip(times[f"engine {p}"], times[what], strict=True)
            ratios[0] = f"{statistics.median(bare / whole for bare, whole in shares):.2f}"
            ratios[1] = f"{medians['dygraph'] / value:.1f}"
        table.add_row(what, f"{value:.1f}", *ratios)
    console = Console()
    console.print(table, f"{THREADS} threads, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
