"""What does labelling cost beside the teacher's bare forward pass, and what does its engine gain?

    OMP_NUM_THREADS=2 python benchmarks/labelling.py --model ResNet50_vd

In turns, medians over the repetitions, ms an image: the network itself (dygraph, fp32), the
inference engine on a batch in memory, and the label stage's work on the same engine: files to rows
of a shard. The images are like ImageNet's, made on the spot (benchmarks/input_pipeline.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # read once, by Paddle

from input_pipeline import write_images
from rich.console import Console
from rich.table import Table

from ppcls_core.data.transforms import Preprocess
from ppcls_core.data.views import TestView
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.predictor import Precision, has_fast_bf16
from ppcls_core.labels.labeller import label
from ppcls_core.labels.shard import Header, Origin, write_labels
from ppcls_core.labels.teacher import Item, Predict, batches, on_engine
from ppcls_core.models.registry import build_model

THREADS = int(os.environ["OMP_NUM_THREADS"])
NUM_CLASSES, BATCH_SIZE = 1000, 32


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def label_files(items: list[Item], predict: Predict, precision: Precision, folder: Path) -> None:
    """As the label stage's child process does it."""
    view = TestView(preprocess=Preprocess())
    header = Header(Origin("teacher", "view"), NUM_CLASSES, "int8", precision)
    loaded = batches(items, view, BATCH_SIZE, THREADS)
    answered = ((good, predict(pixels), bad) for good, pixels, bad in loaded)
    labels, _ = label(answered, view, header, lambda: None)
    write_labels(labels, folder / "shard-00000.labels.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ResNet50_vd")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    network = build_model(arguments.model, num_classes=NUM_CLASSES)
    network.eval()
    precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16() else ["fp32"]
    engines = {p: on_engine(network, 224, p, THREADS) for p in precisions}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, _ = write_images(folder, arguments.images)
        items: list[Item] = [(path.name, path, 0) for path in files]
        loaded = batches(items, TestView(preprocess=Preprocess()), BATCH_SIZE, THREADS)
        in_memory = [pixels for _, pixels, _ in loaded]
        times: dict[str, list[float]] = {}

        def measure(what: str, call: Callable[[], object], num: int) -> None:
            times.setdefault(what, []).append(1e3 * seconds(call) / num)

        for _ in range(arguments.repetitions):
            measure("dygraph", lambda: predict_logits(network, in_memory[0]), BATCH_SIZE)
            for p, predict in engines.items():
                measure(f"engine {p}", lambda f=predict: [f(x) for x in in_memory], len(items))
                call = lambda f=predict, p=p: label_files(items, f, p, folder)  # noqa: E731
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
