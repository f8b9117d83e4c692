"""How much faster are two hosts than one at the duplicate search and at labelling, and what does a
cluster of one host cost beside no cluster?

    python benchmarks/cluster.py            # two cores, as root; ten minutes

Each host is a worker pinned to one core, under a host name of its own. In turns: this machine's
first core without a cluster; a cluster of that core alone, scheduler and head on it too; a cluster
of two cores. Images/s while all that takes part has work: what it takes to open an index or a
network is left out, and the last shard of one host while others have none left, which a stage of
millions of images does not notice. Medians over the rounds, ratios within each.

    python benchmarks/cluster.py --stand-in 24

On a machine that is busy: rows that sleep take the images' place, so that what is measured is the
cluster alone, and what its processes take of a core while the rows sleep. Shards of two seconds,
where a recipe's take minutes.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from pkgutil import resolve_name  # workers have this file under its own name
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.append(sys.path.pop(0))  # `distributed` is Dask's, not the benchmark of that name

import cv2
import numpy as np
import psutil
import pyarrow as pa
from input_pipeline import write_images
from rich.console import Console
from rich.table import Table

from data_catalog.recipes import PROJECT
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime import cluster
from ppcls_core.runtime.monitor import Monitor, SilentMonitor
from ppcls_core.runtime.shards import Advance, Process, ShardJob
from tasks.dag import needed_for
from tasks.recipe import load_recipe
from tasks.run.session import Session
from tasks.run.store import Store

SECONDS = 4.0  # between two looks at the processors
STAGES, SHARD, TEACHER = ("dedup", "label"), 120, "ResNet50_vd"


class Clock(SilentMonitor):
    """Notes when how many images were done, by whom."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str, int]] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        if unit == "images" and total > SHARD:
            self.events.append((time.monotonic(), "", done))

    def rate(self, hosts: list[tuple[float, str, int]]) -> float:
        """Images/s while all `hosts` have work; where there are none, from first image to last."""
        begun = {name: at for at, name, rows in reversed(hosts) if rows}
        last = {name: at for at, name, rows in hosts if rows}
        start = max(begun.values()) if begun else self.events[0][0]
        end = min(last.values()) if last else self.events[-1][0]
        (start, first), *_, (end, done) = (
            (at, n) for at, _, n in self.events if start <= at <= end
        )
        return (done - first) / (end - start)


class Meter(Clock):
    """Notes besides what this process and those it started have had of the processors."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[tuple[float, float]] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        super().progress(done, total, unit)
        if not self.used or time.monotonic() > self.used[-1][0] + SECONDS:
            own = psutil.Process()
            times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
            self.used.append((time.monotonic(), sum(each.user + each.system for each in times)))

    @property
    def cores(self) -> float:
        """Cores that they had from the first note to the last."""
        (begun, before), *_, (ended, after) = self.used
        return (after - before) / (ended - begun)


TRAINING = """{epochs: 1, batch_size: 8, image_size: 32, lr: 0.1}"""
RECIPE = f"""
data: {{labelled: data.yaml, pool: data.yaml}}
shard_size: {SHARD}
dedup: {{canaries: 0}}
teacher: {{model: {{name: {TEACHER}}}, weights: teacher.pdparams}}
label: {{batch_size: 8, precision: fp32}}
student: {{name: ResNet18_vd}}
baseline: {TRAINING}
distill: {TRAINING}
finetune: {TRAINING}
fix: {TRAINING}
"""


def recipe_of(folder: Path, num: int) -> Path:
    """A recipe whose pool is `num` images like ImageNet's; its teacher has random weights."""
    for name, seed in (("val/a", 1), ("val/b", 2), ("train/a", 3), ("train/b", 4)):
        (folder / name).mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8)
        cv2.imwrite(str(folder / name / "0.png"), pixels)
    (folder / "pool").mkdir()
    write_images(folder / "pool", num)
    for mosaic in folder.rglob("mosaic*"):
        mosaic.unlink()
    save_state(folder / "teacher.pdparams", state_of(build_model(TEACHER, num_classes=2)))
    (folder / "data.yaml").write_text("{root: ., train: train, val: val, pool: pool}")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


@contextmanager
def hosts(folder: Path, cores: list[int]) -> Iterator[str]:
    """A cluster with a worker on each of `cores`; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        head = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])}
    started = []

    def start(core: int, name: str, *words: str) -> Path:
        log = folder / f"{name}.log"
        pinned = ["taskset", "-c", str(core), "unshare", "--uts", "sh", "-c"]
        command = [*pinned, 'hostname "$0" && exec "$@"', name, sys.executable, "-m", *words]
        with log.open("w") as file:
            started.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
        return log

    try:
        start(cores[0], "head", "tasks.run.hosts", head)
        time.sleep(5)
        join = ("flows.cli", "worker", "--join", head)
        logs = [start(core, f"core{core}", *join) for core in cores]
        while not all("joined" in log.read_text() for log in logs):
            time.sleep(0.2)
        yield head
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


@contextmanager
def listening(told: list[tuple[float, str, int]]) -> Iterator[None]:
    """Append to `told` when which worker tells of how many rows."""
    add = cluster._Rates.add

    def tell(self: cluster._Rates, worker: str, rows: int) -> None:
        told.append((time.monotonic(), worker, rows))
        add(self, worker, rows)

    cluster._Rates.add = tell  # type: ignore[method-assign]
    try:
        yield
    finally:
        cluster._Rates.add = add  # type: ignore[method-assign]


def rates(recipe: Path, store: Path, settings: list[str]) -> dict[str, float]:
    """Images/s of each stage, run anew."""
    session, found = Session(load_recipe(str(recipe), settings), Store(store)), {}
    told: list[tuple[float, str, int]] = []
    for stage in needed_for(STAGES[-1]):
        result = session.find(stage).result
        if result is not None and stage.name not in STAGES:
            session.accept(result)
            continue
        clock = Clock()
        told.clear()
        if result is not None:
            session.store.discard(stage.name, result.key)
        with listening(told):
            session.run(stage, clock)
        if stage.name in STAGES:
            found[stage.name] = clock.rate(told)
    return found


def asleep(rows: range, advance: Advance) -> dict[str, pa.Table]:
    """A shard of rows that sleep."""
    for _ in rows:
        time.sleep(0.1)
        advance()
    return {"x": pa.table({"x": list(rows)})}


def no_preparation(process: Process, monitor: Monitor) -> nullcontext[list[Process]]:
    """An opening of a job that opens nothing."""
    return nullcontext([process])


def stand_in(folder: Path, num_shards: int) -> None:
    """Print rows/s of rows that sleep, without a cluster and by one and two workers."""
    found = {}
    for name, cores in (("no cluster", []), ("cluster of 1", [0]), ("cluster of 2", [0, 1])):
        opening = partial(*map(resolve_name, ("cluster:no_preparation", "cluster:asleep")))
        job = ShardJob(folder / f"shards{len(cores)}", 20 * num_shards, 20, opening)
        clock, told = Meter(), []
        near = hosts(folder, cores) if cores else nullcontext(cluster.LOCAL)
        with near as where, listening(told):
            cluster.run_on(where, job, clock)
        found[name] = clock.rate(told)
        of_core = 100 * clock.cores
        print(f"{name}: {found[name]:.3f} rows/s, {of_core:.1f} % of a core", flush=True)
    share = found["no cluster"] / found["cluster of 1"] - 1
    print(f"overhead of a cluster of one: {100 * share:.1f} %")
    print(f"two workers over one: x {found['cluster of 2'] / found['cluster of 1']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stand-in", type=int, metavar="SHARDS", default=0)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"SSLD_HOME": name, "XDG_CONFIG_HOME": f"{name}/config"}
        cluster.make_certificate()
        if given.stand_in:
            return stand_in(folder, given.stand_in)
        recipe, ways = recipe_of(folder, given.images), {}
        for _ in range(given.rounds):
            os.sched_setaffinity(0, {0})
            ways.setdefault("no cluster", []).append(rates(recipe, folder / "store", []))
            for cores in ([0], [0, 1]):
                os.sched_setaffinity(0, set(cores))
                with hosts(folder, cores) as head:
                    found = rates(recipe, folder / "store", [f"run_time.cluster={head}"])
                ways.setdefault(f"cluster of {len(cores)}", []).append(found)
                print(f"{len(cores)}: {found}", flush=True)
    table = Table("", *(f"{stage}, images/s" for stage in STAGES), *STAGES)
    for way, rounds in ways.items():
        against = ways["no cluster" if way == "cluster of 1" else "cluster of 1"]
        pairs = list(zip(rounds, against, strict=True))
        ratios = [median(one[s] / other[s] for one, other in pairs) for s in STAGES]
        texts = [f"x {ratio:.3f}" for ratio in ratios] if way != "no cluster" else []
        table.add_row(way, *(f"{median(r[s] for r in rounds):.2f}" for s in STAGES), *texts)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
