"""Is a training that was killed equal to one that was not? SIGKILL at random moments, many times.

    python benchmarks/resume.py --kills 50

A tiny network learns synthetic images, with every optimizer in turn, under a moving average and in
two parts a batch, and writes a checkpoint at every step. Each training is killed once and resumed
with another number of loader threads; then its weights, optimizer, average, history and best
weights are compared, by digest, with those of the training that was left alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np

OPTIMIZERS = ("Momentum", "RMSProp", "Adam")
MODULES = ("paddle", "ppcls_core.engine.run")
NUM_IMAGES = 26
# Forked from a server that has imported Paddle but computed nothing: 0.1 s a process, not 4.
processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Job:
    """One training in a process of its own."""

    images: Path
    directory: Path
    optimizer: str
    workers: int

    def start(self) -> BaseProcess:
        process = processes.Process(target=train, args=(self,))
        process.start()
        return process

    def finish(self) -> tuple[str, int]:
        """(digest of all that the training left, step from which it went on)."""
        self.start().join()
        result = json.loads((self.directory / "result.json").read_text())
        return result["digest"], result["begun"]


def train(job: Job) -> None:
    """Train to the end, from a checkpoint if there is one."""
    import paddle

    from data_catalog.images.columns import loose_images
    from ppcls_core.engine import checkpoint
    from ppcls_core.engine.config import LabelTraining
    from ppcls_core.engine.evaluator import EvalData
    from ppcls_core.engine.objectives import cross_entropy
    from ppcls_core.engine.run import Run, trainer_of
    from ppcls_core.engine.trainer import BEST, StepReport
    from ppcls_core.models.registry import build_model
    from ppcls_core.models.weights.state import state_of
    from ppcls_core.runtime.monitor import SilentMonitor

    names = [f"{row:03}.jpg" for row in range(NUM_IMAGES)]
    labels = np.arange(NUM_IMAGES, dtype=np.int32) % 3
    images = loose_images(job.images, names, labels)
    config = LabelTraining.model_validate(
        {
            "epochs": 4,
            "batch_size": 4,
            "image_size": 32,
            "lr": 0.01,
            "optimizer": {"name": job.optimizer},
            "accumulate": 2,
            "ema_decay": 0.9,
            "eval_every": 2,
        }
    )
    paddle.seed(0)
    model = build_model("ResNet18_vd", num_classes=3, spec={"depths": [1, 1, 1, 1], "width": 4})
    steps: list[int] = []

    def on_step(report: StepReport) -> None:
        steps.append(report.step)

    job.directory.mkdir(exist_ok=True)
    (job.directory / "started").touch()
    val = EvalData(images, config.preprocess, job.workers)
    run = Run(
        images, val, config, 0, job.directory, SilentMonitor(), save_seconds=0, on_step=on_step
    )
    begun = time.monotonic()
    history = trainer_of(model, cross_entropy(0.1), run).fit()
    total = sha256(json.dumps(history).encode())
    for name in (checkpoint.FILE, checkpoint.PREVIOUS, BEST):
        total.update((job.directory / name).read_bytes())
    for value in state_of(model).values():
        total.update(value.tobytes())
    result = {"digest": total.hexdigest(), "begun": steps[0] if steps else -1}
    (job.directory / "result.json").write_text(json.dumps(result))
    (job.directory / "seconds").write_text(str(time.monotonic() - begun))


def write_images(folder: Path) -> None:
    """Coarse noise as JPEGs."""
    folder.mkdir()
    for row in range(NUM_IMAGES):
        small = np.random.default_rng(row).integers(0, 256, (5, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{row:03}.jpg"), cv2.resize(small, (48, 40)))


def killed(job: Job, seconds: float) -> bool:
    """Start the job and kill it `seconds` after its first step; False when it had finished."""
    process = job.start()
    while process.is_alive() and not (job.directory / "started").exists():
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    processes.set_forkserver_preload([*MODULES])
    rng, equal, at = random.Random(arguments.seed), 0, []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "images")
        wanted, seconds = {}, {}
        for name in OPTIMIZERS[: arguments.kills]:
            job = Job(root / "images", root / name, name, workers=2)
            wanted[name], _ = job.finish()
            seconds[name] = float((job.directory / "seconds").read_text())
        while len(at) < arguments.kills:
            name = OPTIMIZERS[len(at) % len(wanted)]
            directory = Path(tempfile.mkdtemp(dir=root))
            job = Job(root / "images", directory, name, rng.randint(1, 4))
            if not killed(job, rng.uniform(0, seconds[name])):
                continue
            digest, begun = replace(job, workers=rng.randint(1, 4)).finish()
            at.append(begun)
            equal += digest == wanted[name]
    print("steps from which the trainings went on:", *sorted(at))
    print(f"{equal} of {arguments.kills} equal")
    return 0 if equal == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
