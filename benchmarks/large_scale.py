"""Pretraining on 100,000 classes and 43 million images: what its last layer and its list cost.

    OMP_NUM_THREADS=1 python benchmarks/large_scale.py layer [--classes 1000 100000] [--batch 32]
    python benchmarks/large_scale.py list --folder SCRATCH [--rows 430000 4300000 43000000]

`layer`: a linear layer on 2,048 features (ResNet50_vd's last), with the loss and Momentum: CPU ms a
step and peak memory, a process each; beside the whole network's step on 224 px. `list`: a list of
`path label` lines is read as a training does and written as columns, then mapped again, each in a
process of its own: CPU seconds, peak memory, and what of it is not mapped files. Links give 1,000
empty files as many names as the list has lines.
"""

import argparse
import os
import resource
import shutil
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import paddle
from rich.console import Console
from rich.table import Table

from data_catalog.images.columns import ROOT, read_images, write_images
from data_catalog.images.lists import read_list
from ppcls_core.data.batch import Batch
from ppcls_core.engine.objectives import cross_entropy, distillation
from ppcls_core.engine.optimizers import Momentum, Regularizer, make_optimizer
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model

FEATURES, SIDE, PER_FOLDER, NUM_CLASSES = 2048, 224, 1000, 100_000
STEPS = 3


class Head(Network):
    """The last layer: pixels [N, 3, 16, 43], of which the first 2,048 values are the features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = paddle.nn.Linear(FEATURES, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Float to logits [N, num_classes]."""
        return self.fc(x.flatten(1)[:, :FEATURES])


def step_ms(kind: str, num_classes: int, batch_size: int) -> float:
    """CPU milliseconds of the fastest of a few training steps."""
    shape = (3, SIDE, SIDE) if kind == "network" else (3, 16, 43)
    build = Head if kind != "network" else lambda n: build_model("ResNet50_vd", num_classes=n)
    model = build(num_classes)
    objective = cross_entropy(0.1)
    if kind == "distilled":
        objective = distillation([Head(num_classes)], "ssld", "batch")
    optimizer = make_optimizer(Momentum(), model.parameters(), Regularizer(), None)
    optimizer.set_lr(0.1)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, batch_size)
    batch = Batch(pixels=rng.integers(0, 256, (batch_size, *shape), np.uint8), labels=labels)
    times = []
    for _ in range(STEPS):
        start = time.process_time()
        loss, _ = objective(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def write_list(folder: Path, num_rows: int) -> Path:
    """A list of `num_rows` lines; links give 1,000 files a million names under each of its tops."""
    files, middle = folder / "files", folder / "middle"
    if not files.exists():
        files.mkdir(parents=True)
        middle.mkdir()
        for number in range(PER_FOLDER):
            (files / f"{number:03d}.jpg").touch()
            (middle / f"{number:03d}").symlink_to(files)
    path = folder / "list.txt"
    with path.open("w") as file:
        for start in range(0, num_rows, PER_FOLDER):
            top, number = divmod(start // PER_FOLDER, PER_FOLDER)
            if number == 0 and not (folder / f"{top:03d}").exists():
                (folder / f"{top:03d}").symlink_to(middle)
            name, label = f"{top:03d}/{number:03d}", start * NUM_CLASSES // num_rows
            rows = range(min(PER_FOLDER, num_rows - start))
            file.write("".join([f"{name}/{row:03d}.jpg {label}\n" for row in rows]))
    return path


def read(path: Path, target: Path) -> None:
    """As a training and the `data` stage do."""
    found = read_list(path, path.parent, lambda more: None)
    write_images(target, found.images)


def use(path: Path, target: Path) -> None:
    """What an epoch does with the set: its labels, and where 100,000 of its images lie."""
    images = read_images(target, {ROOT: str(path.parent)})
    assert images.labels[-1] >= 0
    rows = np.random.default_rng(0).choice(len(images), 100_000, replace=False)
    for start in range(0, len(rows), 256):
        images.sources(np.sort(rows[start : start + 256]))


def measured(work: Any, *arguments: object) -> tuple[Any, float, float, float]:
    """(result, CPU seconds, peak MB, that without mapped files) of `work` in a fresh process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(work, arguments, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def _run(work: Any, arguments: tuple[object, ...], pipe: Connection) -> None:
    own, done = [_own_mb()], Event()

    def sample() -> None:  # the system keeps the peak of all memory alone
        while not done.wait(0.05):
            own.append(_own_mb())

    sampler = Thread(target=sample)
    sampler.start()
    before = time.process_time()
    result = work(*arguments)
    seconds = time.process_time() - before
    done.set()
    sampler.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send((result, seconds, peak, max(own)))


def _own_mb() -> float:
    """This process's memory that is no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure_layer(asked: argparse.Namespace, table: Table) -> None:
    """A row a part and number of classes."""
    for kind in asked.parts:
        for num_classes in asked.classes:
            ms, _, peak, _ = measured(step_ms, kind, num_classes, asked.batch)
            weights = FEATURES * num_classes * 4 / 1e6
            table.add_row(kind, f"{num_classes:,}", f"{ms:,.0f}", f"{peak:,.0f}", f"{weights:,.0f}")


def measure_list(asked: argparse.Namespace, table: Table) -> None:
    """A row a number of lines."""
    for num_rows in asked.rows:
        path = write_list(asked.folder, num_rows)
        target = asked.folder / "images.arrow"
        figures = [measured(work, path, target)[1:] for work in (read, use)]
        sizes = (path.stat().st_size / 1e6, target.stat().st_size / 1e6)
        table.add_row(f"{num_rows:,}", *(f"{x:,.0f}" for x in (*sizes, *figures[0], *figures[1])))
    shutil.rmtree(asked.folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    layer, images = commands.add_parser("layer"), commands.add_parser("list")
    layer.add_argument("--classes", type=int, nargs="+", default=[1000, 100_000])
    layer.add_argument("--batch", type=int, default=32)
    parts = ["layer", "distilled", "network"]
    layer.add_argument("--parts", nargs="+", choices=parts, default=parts)
    images.add_argument("--folder", type=Path, required=True)
    images.add_argument("--rows", type=int, nargs="+", default=[430_000, 4_300_000])
    asked = parser.parse_args()
    if asked.command == "layer":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        table = Table("part", "classes", "CPU ms a step", "peak MB", "weights MB")
        measure_layer(asked, table)
    else:
        columns = (
            "list MB",
            "columns MB",
            "read CPU s",
            "peak MB",
            "own MB",
            "use CPU s",
            "peak MB",
            "own MB",
        )
        table = Table("rows", *columns)
        measure_list(asked, table)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
