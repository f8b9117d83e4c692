"""What does it take to know 14.2 million images, before one is decoded?

    python benchmarks/bookkeeping.py --folder SCRATCH [--images 100000 --images 1000000]

Makes a pool of tars of 100,000 images of 64 bytes each (1 KB an image on disk) with a labelled
set of two images, and measures steps, each in a process of its own: wall time and peak memory.
The pool of the next size takes over the tars of the one before; --remove deletes it at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_catalog.images.columns import Images, read_images, write_images
from data_catalog.images.identity import content_digest

PER_TAR = 100_000
IMAGE = b"\xff\xd8\xff\xe0".ljust(64, b"\0")
KEPT = 0.9  # share of the pool that a search for duplicates keeps
PART = 2048  # rows that a search or a labelling holds at a time


def make_pool(folder: Path, num_images: int) -> None:
    """Tars that are not there yet: the first is written, the others are copies."""
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    (folder / "pool.yaml").write_text(
        "kind: files\nroot: .\ntrain: list.txt\nval: list.txt\npool: pool\n"
    )
    (folder / "list.txt").write_text("a.jpg 0\nb.jpg 1\n")
    first = folder / "pool" / "n00000.tar"
    if not first.exists():
        with tarfile.open(first, "w") as archive:
            for number in range(PER_TAR):
                member = tarfile.TarInfo(f"n00000_{number}.JPEG")
                member.size = len(IMAGE)
                archive.addfile(member, _Endless(number))
    for number in range(1, -(-num_images // PER_TAR)):
        path = folder / "pool" / f"n{number:05}.tar"
        if not path.exists():
            shutil.copyfile(first, path)


class _Endless:
    """A file of an image that differs from the others."""

    def __init__(self, number: int) -> None:
        self.data = IMAGE[:-8] + number.to_bytes(8, "little")

    def read(self, num: int = -1) -> bytes:
        return self.data[: num if num >= 0 else None]


def settings(folder: Path) -> list[str]:
    sets = [f"data.{name}={folder}/pool.yaml" for name in ("labelled", "pool")]
    return [*sets, "data.options={}"]


def data_stage(folder: Path) -> int:
    """The stage `data` of a recipe with that pool."""
    from ppcls_core.runtime.monitor import SilentMonitor
    from tasks.dag import STAGES
    from tasks.recipe import load_recipe
    from tasks.run.session import Session
    from tasks.run.store import Store

    session = Session(load_recipe("demo", settings(folder)), Store.default(), frozenset(["data"]))
    result = session.run(STAGES["data"], SilentMonitor())
    (folder / "result").write_text(str(result.directory))
    return result.counts["pool"]


def status(folder: Path) -> int:
    """`ssld status`."""
    from flows.cli import app

    pairs = [word for pair in settings(folder) for word in ("--set", pair)]
    app(["status", "demo", *pairs], standalone_mode=False)
    return 0


def images(folder: Path) -> Images:
    stage = Path((folder / "result").read_text())
    return read_images(stage / "pool.arrow", {"images": str(folder), "pool": str(folder)})


def loader(folder: Path) -> int:
    """Reading the set back, and the order of a training's first epoch."""
    from ppcls_core.data.loader import TrainLoader
    from ppcls_core.data.transforms import Preprocess

    found = images(folder)
    started = TrainLoader(found, 256, 224, Preprocess(), 0, 2)
    rows = next(iter(started._rows(0, 0, 1)))
    return len(found.take([row for _, row in rows]).sources())


def search(folder: Path) -> int:
    """What a search for duplicates and a labelling do: ids and places of all images part by part,
    then the set of those that are kept."""
    found, num = images(folder), 0
    for start in range(0, len(found), PART):
        part = found.part(start, start + PART)
        num += len(list(part.ids)) + len(part.sources())
    kept = np.random.default_rng(0).random(len(found)) < KEPT
    write_images(folder / "kept.arrow", found.take(kept))
    (folder / "kept.arrow").unlink()
    return num


def digest(folder: Path) -> int:
    """The digest over all ids and contents."""
    return len(content_digest(images(folder)))


STEPS: dict[str, Callable[[Path], int]] = {
    "data, first": data_stage,
    "data, again": data_stage,
    "ssld status": status,
    "content digest": digest,
    "loader's start": loader,
    "search, labelling": search,
}


def run_step(name: str, folder: Path) -> None:
    """One step, in a process of its own: its time and peak memory on the last line."""
    begun = time.perf_counter()
    STEPS[name](folder)
    seconds = time.perf_counter() - begun
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(name: str, folder: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of a step; importing is not counted."""
    command = [sys.executable, __file__, "--folder", str(folder), "--step", name]
    environment = os.environ | {"SSLD_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.step:
        return run_step(arguments.step, folder)
    table = Table("images", "step", "seconds", "peak MiB", title="bookkeeping")
    for num_images in arguments.images or [100_000, 1_000_000]:
        shutil.rmtree(folder / "home", ignore_errors=True)
        make_pool(folder, num_images)
        time.sleep(3)  # what has just been written would be read again
        for name in STEPS:
            seconds, memory = measure(name, folder)
            table.add_row(f"{num_images:,}", name, f"{seconds:.1f}", f"{memory:,.0f}")
    Console().print(table)
    if arguments.remove:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
