"""What test_distributed.py has two processes do; one launch for all of it, as Paddle starts slowly.

Each process writes what it found to FOLDER/RANK.json, and weights beside it. At last the second
process is killed, so that the launch fails.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images, loose_images
from ppcls_core.data.augment import CutMix
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import CLASSIC, TrainConfig
from ppcls_core.engine.distributed import join, world
from ppcls_core.engine.evaluator import EvalData, evaluate
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.schedules import CosineWarmup
from ppcls_core.engine.trainer import Row, Trainer, Training
from ppcls_core.models.registry import build_model, classifier_parameters
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor

NUM_IMAGES, BAD = 25, (3, 8)  # row 3 falls to the second of two processes in an evaluation
NETWORKS = {
    "ResNet18_vd": {"depths": [1, 1, 1, 1], "width": 4},  # batch norm
    "MobileNetV3_small_x0_35": None,  # batch norm and dropout
    "SqueezeNet1_0": None,  # no batch norm
}
CONFIG = TrainConfig(
    epochs=2,
    batch_size=8,
    image_size=32,
    lr=0.05,
    schedule=CosineWarmup(warmup_epochs=1),
    eval_every=1,
    ema_decay=0.7,
)
STEPS = 6


class Stopper(SilentMonitor):
    """Asks to stop once `step` steps are done."""

    def __init__(self, step: int = 10**9) -> None:
        self.step, self.stop_requested = step, False

    def progress(self, done: int, total: int, unit: str) -> None:
        assert (total, unit) == (STEPS, "steps")
        self.stop_requested = done >= self.step


def listed_images(folder: Path) -> Images:
    """The images that the test has written."""
    paths = sorted(folder.glob("*.jpg"))
    labels = np.arange(len(paths), dtype=np.int32) % 3
    return loose_images(folder, [path.name for path in paths], labels)


def new_training(folder: Path, name: str = "ResNet18_vd", seed: int = 1) -> Training:
    """A training of a tiny network."""
    images = listed_images(folder / "images")
    paddle.seed(seed)
    size = 64 if name.startswith("Squeeze") else 32
    model = build_model(name, num_classes=3, spec=NETWORKS[name])
    loader = TrainLoader(images, CONFIG.batch_size, size, CLASSIC, 7, 1)

    def validate(model: paddle.nn.Layer) -> Row:
        data = EvalData(images, Preprocess(size=size), 1)
        return {"top1": evaluate(model, data, SilentMonitor()).top1}

    return Training(model, cross_entropy(0.1), loader, validate)


def trained(training: Training, config: TrainConfig, directory: Path, stop: int = 10**9) -> dict:
    """Train, and save the weights: {reports, history or None if stopped, rejected}."""
    reports = []
    directory.mkdir(exist_ok=True)
    training = dataclasses.replace(training, on_step=reports.append)
    trainer = Trainer(training, config, directory, 1e9, Stopper(stop))
    try:
        history = trainer.fit()
    except Interrupted:
        history = None
    save_state(directory / f"state{world().rank}.pdparams", state_of(training.model))
    return {
        "reports": [dataclasses.astuple(report) for report in reports],
        "history": history,
        "rejected": sorted(trainer.position.rejected),
    }


def message_of(fails: object) -> str:
    """What the UserError of a call says."""
    try:
        fails()  # type: ignore[operator]
    except UserError as error:
        return str(error)
    raise AssertionError("no error")


def fail_together(rank: int) -> None:
    """Fail in one process alone."""
    with world().together():
        if world().rank == rank:
            raise UserError(f"of {rank}")


def collectives() -> dict:
    """What the methods of World return."""
    rank = world().rank
    tensor = paddle.full([2, 2], float(rank + 5))
    world().follow_first([tensor])
    return {
        "sum": world().sum(np.array([rank, 0.5, 2.0**40])).tolist(),
        "any": world().any(rank == 1, False, True),
        "gather": world().gather({"rank": rank}),
        "union": world().union({f"b{rank}": 1, "a": 2}),
        "followed": tensor.numpy().tolist(),
        "errors": [message_of(lambda r=r: fail_together(r)) for r in (0, 1)],
    }


def evaluated(folder: Path) -> dict:
    """The accuracy of a fixed network, and whether one process's wish to stop is obeyed."""
    training = new_training(folder)
    images = training.loader.images
    data = EvalData(images, Preprocess(size=32), 1)
    accuracy = evaluate(training.model, data, SilentMonitor())
    monitor = Stopper()
    monitor.stop_requested = world().rank == world().size - 1
    try:
        evaluate(training.model, data, monitor)
        stopped = False
    except Interrupted:
        stopped = True
    by_class = accuracy.by_class.tolist()
    return {"by_class": by_class, "rejected": accuracy.lost, "stopped": stopped}


def frozen(folder: Path) -> Training:
    """A training of the classifier alone, as in Fix."""
    training = new_training(folder)
    training.model.eval()
    learning = classifier_parameters(training.model)
    for parameter in training.model.parameters():
        parameter.stop_gradient = all(parameter is not p for p in learning)
    return training


def killed(folder: Path) -> str:
    """What the first process says when the second is killed."""

    def objective(model: paddle.nn.Layer, batch: object) -> object:
        steps.append(0)
        if len(steps) == 3 and world().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return cross_entropy(0.1)(model, batch)  # type: ignore[arg-type]

    steps: list[int] = []
    training = dataclasses.replace(new_training(folder), objective=objective)  # type: ignore[arg-type]
    (folder / "killed").mkdir(exist_ok=True)
    return message_of(lambda: Trainer(training, CONFIG, folder / "killed", 0, Stopper()).fit())


def unreadable(folder: Path) -> str:
    """What is said when no image can be read by the second process."""
    training = new_training(folder)
    if world().rank == 1:
        absent = dataclasses.replace(
            training.loader.images, roots={"images": str(folder / "absent")}
        )
        training = with_loader(training, images=absent)
    return message_of(lambda: fit_failing(training, CONFIG, folder / "unreadable"))


def main() -> None:
    folder = Path(sys.argv[1])
    rank = join().rank
    odd = CONFIG.model_copy(update={"batch_size": 9})
    mixed = with_loader(new_training(folder), mix=CutMix(alpha=1.0))
    # One process alone has stopped at step 2. The first of the two asks when step 3 is done, tells
    # it in step 4 and stops with the other after step 5; one alone goes on from there.
    stop = 3 if rank == 0 else 10**9
    found = {
        "collectives": collectives(),
        "evaluated": evaluated(folder),
        **{
            name: trained(new_training(folder, name, seed=1 + rank), CONFIG, folder / name)
            for name in NETWORKS
        },
        "frozen": trained(frozen(folder), CONFIG, folder / "frozen"),
        "mixed": trained(mixed, CONFIG, folder / "mixed"),
        "stopped": trained(new_training(folder, seed=9), CONFIG, folder / "shared", stop),
        "odd": message_of(lambda: fit_failing(odd_training(folder), odd, folder)),
        "unreadable": unreadable(folder),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    print(f"told: {killed(folder)}", file=sys.stderr, flush=True)


def odd_training(folder: Path) -> Training:
    """One whose batch two processes cannot share."""
    return with_loader(new_training(folder), batch_size=9)


def with_loader(training: Training, **changed: object) -> Training:
    """The training with other fields of its loader."""
    loader = dataclasses.replace(training.loader, **changed)  # type: ignore[arg-type]
    return dataclasses.replace(training, loader=loader)


def fit_failing(training: Training, config: TrainConfig, directory: Path) -> None:
    """Train to an error."""
    Trainer(training, config, directory, 1e9, Stopper()).fit()


if __name__ == "__main__":
    main()
