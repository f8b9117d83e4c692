"""What does replaying the teacher's outputs save? An epoch online against the same replayed.

    OMP_NUM_THREADS=1 python benchmarks/replay.py demo

For a recipe whose views are labelled (it is run up to there): epochs of the distillation in turns,
the time of a step in each, and the bare teacher's and student's share on one batch on the device,
which say what could be saved at most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, by Paddle

import paddle
from rich.console import Console
from rich.table import Table

from ppcls_core.engine.device import to_device
from ppcls_core.engine.objectives import Objective, distillation, replay
from ppcls_core.engine.run import Run, trainer_of
from ppcls_core.runtime.monitor import SilentMonitor
from tasks.dag import needed_for
from tasks.recipe import load_recipe
from tasks.run.session import Session
from tasks.run.stage import Work
from tasks.run.store import Store
from tasks.stages.training import new_student, run_of, stored_outputs, teacher_model

SETTINGS = [
    *("label.views=2", "distill.teacher=replay", "distill.teacher_batch_norm=running"),
    *("distill.epochs=1", "distill.schedule={name: CosineWarmup, warmup_epochs: 0}"),
]


def labelled(recipe: str, settings: list[str]) -> Work:
    """The distillation of `recipe`, its views labelled."""
    session = Session(load_recipe(recipe, [*SETTINGS, *settings]), Store.default())
    for stage in needed_for("views"):
        result = session.find(stage).result
        if result is None:
            session.run(stage, SilentMonitor())
        else:
            session.accept(result)
    return Work("distill", session.recipe, Path(), "", session.done, SilentMonitor())


def epoch(work: Work, objective: Objective, run: Run) -> float:
    """Seconds a step of one epoch of a fresh student, without the first step."""
    student, ends = new_student(work), []
    student.train()
    with tempfile.TemporaryDirectory() as folder:
        timed = replace(
            run, directory=Path(folder), on_step=lambda report: ends.append(time.perf_counter())
        )
        trainer_of(student, objective, timed).fit()
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def bare(work: Work, run: Run) -> tuple[float, float]:
    """(seconds of a teacher's forward pass, of a student's step) on a batch in memory."""
    batch = to_device(next(run.loader.batches(0, 0))).parts[0]
    teacher, student = teacher_model(work), new_student(work)
    student.train()
    optimizer = paddle.optimizer.Momentum(0.01, parameters=student.parameters())
    objective, online = replay("ssld"), distillation([teacher], "ssld", "running")

    def step(of: Objective) -> float:
        begun = time.perf_counter()
        of(student, batch)[0].backward()
        optimizer.step()
        optimizer.clear_grad()
        return time.perf_counter() - begun

    steps = [(step(online), step(objective)) for _ in range(20)]
    alone = statistics.median(by_store for _, by_store in steps)
    return statistics.median(both for both, _ in steps) - alone, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    work = labelled(arguments.recipe, arguments.settings)
    config = work.recipe.distill
    online = run_of(work, "select/train.arrow", config)
    stored = run_of(work, "select/train.arrow", config, stored_outputs(work))
    ways = {
        "online": (distillation([teacher_model(work)], config.loss, "running"), online),
        "replay": (replay(config.loss), stored),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repetitions):
        for name, (objective, run) in ways.items():
            times[name].append(epoch(work, objective, run))
    teacher, student = bare(work, stored)
    table = Table("", "ms a step", title=f"{arguments.recipe}, {len(online.images):,} images")
    for name, values in times.items():
        table.add_row(name, f"{1e3 * statistics.median(values):.1f}")
    table.add_row("teacher alone", f"{1e3 * teacher:.1f}")
    table.add_row("student alone", f"{1e3 * student:.1f}")
    gain = statistics.median(a / b for a, b in zip(times["online"], times["replay"], strict=True))
    possible = (teacher + student) / student
    console = Console()
    console.print(table)
    console.print(
        f"replay is {gain:.2f} times as fast; {possible:.2f} possible: {gain / possible:.2f}"
    )


if __name__ == "__main__":
    main()
