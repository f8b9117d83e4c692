"""Do several processes do what one does, and how much faster? Equality and ratio in one run.

    python benchmarks/distributed.py --processes 2

Two networks learn synthetic images at one global batch: in one process that takes the batch in P
parts, and in P processes (gloo), each with one thread. Printed are the largest difference of the
losses and of the weights, the median time of a step and what a step spends in communication. With
two processes there is no difference; with more it is that of the order of a sum, which grows from
step to step as rounding does. The ratio of the times means something on P idle cores only; the load
is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

NETWORKS = ("ResNet18_vd", "MobileNetV3_small_x1_0")
BATCH, SIZE, NUM_IMAGES = 32, 64, 64


def work(folder: Path, steps: int, parts: int) -> None:
    """What each process does: train the networks, then time the communication of a step."""
    from ppcls_core.engine.distributed import join, world

    join()
    for name in NETWORKS:
        times, losses, model = train(name, folder, steps, parts // world().size)
        if not world().is_first:
            time_communication(model)
            continue
        told: dict[str, object] = {"losses": losses, "seconds": float(np.median(np.diff(times)))}
        told["communication"] = time_communication(model)
        told["numbers"] = len(figures_of(model))
        (folder / f"{world().size}-{name}.json").write_text(json.dumps(told))


def train(name: str, folder: Path, steps: int, accumulate: int):  # noqa: ANN201
    """(time of each step's end, its loss, the model)."""
    import paddle

    from data_catalog.images.columns import loose_images
    from ppcls_core.data.loader import TrainLoader
    from ppcls_core.engine.config import CLASSIC, TrainConfig
    from ppcls_core.engine.distributed import world
    from ppcls_core.engine.objectives import cross_entropy
    from ppcls_core.engine.trainer import StepReport, Trainer, Training
    from ppcls_core.models.registry import build_model
    from ppcls_core.models.weights.files import save_state
    from ppcls_core.models.weights.state import state_of
    from ppcls_core.runtime.monitor import SilentMonitor

    paths = sorted((folder / "images").glob("*.jpg"))
    labels = np.arange(len(paths), dtype=np.int32) % 10
    images = loose_images(folder / "images", [path.name for path in paths], labels)
    epochs = steps * BATCH // NUM_IMAGES
    config = TrainConfig(
        epochs=epochs, batch_size=BATCH, image_size=SIZE, lr=0.1, accumulate=accumulate
    )
    paddle.seed(0)
    model = build_model(name, num_classes=10)
    times: list[float] = []
    losses: list[float] = []

    def on_step(report: StepReport) -> None:
        times.append(time.perf_counter())
        losses.append(report.loss)

    def no_validation(model: paddle.nn.Layer) -> dict[str, float]:
        return {"top1": 0.0}

    loader = TrainLoader(images, BATCH, SIZE, CLASSIC, 0, 1, epochs=epochs)
    with tempfile.TemporaryDirectory() as directory:
        training = Training(model, cross_entropy(0.1), loader, no_validation, on_step)
        Trainer(training, config, Path(directory), 1e9, SilentMonitor()).fit()
    if world().is_first:
        save_state(folder / f"{world().size}-{name}.pdparams", state_of(model))
    return times, losses, model


def time_communication(model) -> dict[str, float]:  # noqa: ANN001
    """Median seconds of what a step communicates, part by part."""
    import paddle

    from ppcls_core.engine.distributed import world

    learning = [p for p in model.parameters() if not p.stop_gradient]
    (paddle.add_n([p.sum() for p in learning])).backward()
    figures = figures_of(model)
    done: dict[str, Callable[[], object]] = {
        "gradient": lambda: world().average_gradients(learning),
        "figures": lambda: world().add(figures),
    }
    return {name: timed(call) for name, call in done.items()}


def figures_of(model):  # noqa: ANN001, ANN201
    """A vector as long as that which the processes exchange in a step."""
    import paddle

    from ppcls_core.engine.averages import RunningStatistics
    from ppcls_core.engine.trainer import NUM_FIGURES, NUM_FLAGS

    plain = paddle.zeros([NUM_FIGURES + NUM_FLAGS], "float64")
    return paddle.concat([plain, RunningStatistics(model, are_needed=True).read()])


def timed(call: Callable[[], object]) -> float:
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def start(folder: Path, steps: int, parts: int, processes: int) -> None:
    """Run `work` in so many processes of one thread each."""
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    launcher += ["--log_dir", str(folder / "log")]
    script = [__file__, "--work", str(folder), "--steps", str(steps), "--processes", str(parts)]
    command = [sys.executable, *(launcher if processes > 1 else []), *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def compare(folder: Path, name: str, processes: int) -> None:
    from ppcls_core.models.weights.files import load_state

    numbers = (1, processes)
    one, many = (json.loads((folder / f"{n}-{name}.json").read_text()) for n in numbers)
    losses, states = (
        [np.array(told["losses"]) for told in (one, many)],
        [load_state(folder / f"{n}-{name}.pdparams") for n in numbers],
    )
    weights = max(np.abs(states[0][key] - states[1][key]).max() for key in states[0])
    print(f"\n{name}: {len(losses[0])} steps, losses {losses[0][0]:.4f} to {losses[0][-1]:.4f}")
    apart = np.abs(losses[0] - losses[1])
    print(f"  largest difference of a loss {apart.max():.2g} (of the first five ", end="")
    print(f"{apart[:5].max():.2g}), of a weight or statistic {weights:.2g}")
    faster = one["seconds"] / many["seconds"]
    print(f"  step: {one['seconds'] * 1e3:.1f} ms in one process, ", end="")
    print(f"{many['seconds'] * 1e3:.1f} ms in {processes}: {faster:.2f} times as fast")
    for what, seconds in many["communication"].items():
        size = f" ({many['numbers']:,} numbers)" if what == "figures" else ""
        share = seconds / many["seconds"]
        print(f"  {what}{size}: {seconds * 1e3:.2f} ms, {100 * share:.1f} % of a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work, arguments.steps, arguments.processes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for row in range(NUM_IMAGES):
            small = np.random.default_rng(row).integers(0, 256, (5, 6, 3), np.uint8)
            cv2.imwrite(str(folder / "images" / f"{row:03}.jpg"), cv2.resize(small, (96, 80)))
        for processes in (1, arguments.processes):
            print(f"{processes} process(es), load {os.getloadavg()[0]:.1f}", flush=True)
            start(folder, arguments.steps, arguments.processes, processes)
        for network in NETWORKS:
            compare(folder, network, arguments.processes)
    return None


if __name__ == "__main__":
    main()
