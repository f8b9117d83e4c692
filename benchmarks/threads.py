"""What do more threads bring a training step, and what do they cost beside a busy core?

    OMP_NUM_THREADS=2 python benchmarks/threads.py

Steps a second, and per second of the processors, of ResNet18_vd cut to four blocks at 56 px, by its
width; on idle cores, and while another program keeps one of them busy. `chosen` is what
`ppcls_core.engine.threads` takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from ppcls_core.engine.threads import on_threads, threads_of_step
from ppcls_core.models.complexity import count_operations
from ppcls_core.models.registry import build_model
from ppcls_core.runtime.paddle import import_paddle
from ppcls_core.runtime.threads import max_threads

BATCH_SIZE, SIZE = 32, 56


def step_of(width: int) -> tuple[Callable[[], float], int, int]:
    """(a training step, its operations, the number of threads chosen for it)."""
    import paddle

    spec = {"depths": [1, 1, 1, 1], "width": width}
    model = build_model("ResNet18_vd", num_classes=10, spec=spec)
    model.train()
    images = np.random.default_rng(0).random((BATCH_SIZE, 3, SIZE, SIZE), np.float32)
    images, labels = paddle.to_tensor(images), paddle.zeros([BATCH_SIZE], "int64")
    optimizer = paddle.optimizer.Momentum(0.01, parameters=model.parameters())

    def step() -> float:
        loss = paddle.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    operations = 3 * BATCH_SIZE * count_operations(model, SIZE)
    return step, operations, threads_of_step(model, [], SIZE, BATCH_SIZE)


def pace(step: Callable[[], float], seconds: float) -> tuple[float, float]:
    """(steps a second, steps per second of the processors)."""
    step()
    num, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        step()
        num += 1
    return num / (time.perf_counter() - begun), num / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    import_paddle()
    numbers = sorted({1, max_threads()})
    names = [f"{n} thread{'s' * (n > 1)}" for n in numbers]
    table = Table(
        "width", "GOP a step", "other core", *names, "chosen", title="steps/s (per CPU s)"
    )
    for width in arguments.widths:
        step, operations, chosen = step_of(width)
        for other in ("idle", "busy"):
            command = [sys.executable, "-c", "while True: pass" if other == "busy" else ""]
            with subprocess.Popen(command) as program:
                cells = []
                for number in numbers:
                    with on_threads(number):
                        rate, per_cpu = pace(step, arguments.seconds)
                    cells.append(f"{rate:.1f} ({per_cpu:.1f})")
                program.kill()
            row = (str(width), f"{operations / 1e9:.1f}", other, *cells, str(chosen))
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
