"""What does it take to know 14.2 million images, before one is decoded?

    python benchmarks/bookkeeping.py --folder SCRATCH [--form tars] [--images 100000]... [--remove]

Makes a pool of `--form`: `tars` of 100,000 images of 64 bytes (1 KB an image on disk), a `list`
that names 1,000 files under the names of many folders, or loose `files` (4 KB each on disk); the
labelled set is two pictures in 1,000 classes. Then it measures steps, each in a process of its own:
wall time, time of the processors, peak memory with the mapped files and without. Searching and
labelling run the stages as they are, but for what would decode an image. A larger pool takes over
the files of a smaller.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from selection import NUM_CLASSES, T, synthetic_shard

from data_catalog.base.config import UserError
from data_catalog.base.files import write_json
from data_catalog.images.columns import IDS, REJECTED, read_images
from ppcls_core.data.views import Views
from ppcls_core.labels.shard import Header, label_table
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.shards import Advance, Process
from tasks.dag import STAGES
from tasks.recipe import load_recipe
from tasks.run.session import Session
from tasks.run.stage import Work
from tasks.run.store import FileEntry, Result, Store

PER_TAR, PER_FOLDER = 100_000, 1000
IMAGE = b"\xff\xd8\xff\xe0".ljust(56, b"\0")  # begins as a JPEG does
FORMS = ("tars", "list", "files")


def make_pool(folder: Path, form: str, num_images: int) -> None:
    """The data sets' descriptions, and the files of the pool that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (16, 16, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(pixels, (256, 256)))
    (folder / "list.txt").write_text(f"a.jpg 0\nb.jpg {NUM_CLASSES - 1}\n")
    pool = "pool.txt" if form == "list" else form
    settings = f"kind: files\nroot: .\ntrain: list.txt\nval: list.txt\npool: {pool}\n"
    (folder / "pool.yaml").write_text(settings)
    if form == "tars":
        _make_tars(folder / pool, num_images)
    elif form == "files":
        _make_files(folder / pool, num_images)
    else:
        _make_list(folder, num_images)


def _make_tars(pool: Path, num_images: int) -> None:
    """Tars of PER_TAR images: the first is written, the others are copies."""
    pool.mkdir(exist_ok=True)
    first = pool / "n00000.tar"
    if not first.exists():
        with tarfile.open(first, "w") as archive:
            for number in range(PER_TAR):
                member = tarfile.TarInfo(f"n00000_{number}.JPEG")
                member.size = len(IMAGE) + 8
                archive.addfile(member, _Endless(number))
    for number in range(1, -(-num_images // PER_TAR)):
        path = pool / f"n{number:05}.tar"
        if not path.exists():
            shutil.copyfile(first, path)


class _Endless:
    """A file of an image that differs from the others."""

    def __init__(self, number: int) -> None:
        self.data = IMAGE + number.to_bytes(8, "little")

    def read(self, num: int = -1) -> bytes:
        return self.data[: num if num >= 0 else None]


def _make_files(pool: Path, num_images: int) -> None:
    for number in range(num_images):
        path = pool / f"n{number // PER_FOLDER:05}" / f"{number}.JPEG"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(IMAGE + number.to_bytes(8, "little"))


def _make_list(folder: Path, num_images: int) -> None:
    """A list of `num_images` paths, through links to one folder of PER_FOLDER files."""
    _make_files(folder / "real", PER_FOLDER)
    for number in range(-(-num_images // PER_FOLDER)):
        with suppress(FileExistsError):
            (folder / f"n{number:05}").symlink_to(folder / "real" / "n00000")
    places = (divmod(number, PER_FOLDER) for number in range(num_images))
    with (folder / "pool.txt").open("w") as file:
        file.writelines(f"n{number:05}/{name}.JPEG\n" for number, name in places)


def settings(folder: Path) -> list[str]:
    """What the recipe has different."""
    sets = [f"data.{name}={folder}/pool.yaml" for name in ("labelled", "pool")]
    labels = ["label.encoding=topk", f"label.k={T}", "label.precision=fp32"]
    return [*sets, "data.options={}", *labels, "select={k: 4000, p: 10}", "shard_size=32768"]


def run_stage(folder: Path, name: str, *finished: str) -> Result:
    """The stage `name` after those `finished`; the teacher counts as such."""
    session = Session(load_recipe("demo", settings(folder)), Store.default(), frozenset([name]))
    last = session.store.last("demo")
    for other in finished:
        found = session.store.load(other, last[other])
        assert found
        session.done[other] = found
    (folder / "model.pdparams").touch()  # its size decides how many processes label
    weights = {"model.pdparams": FileEntry(0, "0" * 64, 0)}
    session.done["teacher"] = Result("teacher", 1, "0" * 64, folder, {}, {}, weights)
    return session.run(STAGES[name], SilentMonitor())


def data(folder: Path) -> None:
    """The stage `data`."""
    run_stage(folder, "data")


def status(folder: Path) -> None:
    """`ssld status`."""
    from flows.cli import app

    pairs = [word for pair in settings(folder) for word in ("--set", pair)]
    app(["status", "demo", *pairs], standalone_mode=False)


def dedup(folder: Path) -> None:
    """The stage `dedup`, in which of 50 images one cannot be read, one is a copy, one is weak."""
    from ppcls_core.dedup import run as driver
    from ppcls_core.dedup.match.detect import ScanResult
    from ppcls_core.dedup.match.pairs import FOUND

    def scan(sources: Sequence[object], ids: Sequence[str], index: Any, *_: object) -> ScanResult:
        names = list(ids)
        assert len(names) == len(sources)
        bad, copies, weak = names[::50], names[1::50], names[2::50]
        pair = {
            "val_id": index.ids[0], "channel": "sift", "score": 0.9, "inliers": 30, "margin": 0.1,
            "transform": [1, 0, 0, 0, 1, 0, 0, 0, 1], "pool_sha256": "0" * 64,
            "val_sha256": "1" * 64,
        }  # fmt: skip
        return ScanResult(
            pa.Table.from_pylist([{"pool_id": name, **pair} for name in copies], FOUND),
            FOUND.empty_table(),
            pa.table([bad, ["damaged"] * len(bad), [""] * len(bad)], schema=REJECTED),
            pa.table([weak], schema=IDS),
        )

    run_stage(folder, "overlap", "data")
    driver.scan = scan
    run_stage(folder, "dedup", "data", "overlap")


def label(folder: Path) -> None:
    """The stage `label`, whose teacher is quick: its labels are random numbers."""
    from tasks.stages import label as label_stage

    numbers = count()

    @contextmanager
    def labelling(chosen: Any, views: Views, _: range, work: Work) -> Iterator[list[Process]]:
        found, config = chosen.images(work), work.recipe.label
        write_json(work.path(label_stage.ENGINE), {"precision": "fp32", "top1": None, "kl": None})
        origin = label_stage.origin_of(work, views)
        header = Header(origin, work.num_classes(), config.encoding, "fp32", config.k)

        def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
            ids = list(found.part(rows.start, rows.stop).ids)
            labels = _random_labels(next(numbers), ids, header)
            return {"labels": labels, "rejected": REJECTED.empty_table()}

        yield [process]

    label_stage._labelling = labelling  # pyright: ignore[reportPrivateUsage]
    run_stage(folder, "label", "data", "dedup")


def _random_labels(number: int, ids: list[str], header: Header) -> pa.Table:
    schema = label_table([], np.empty((0, NUM_CLASSES), np.float32), header).schema
    table = synthetic_shard(number, len(ids))
    table = table.set_column(0, schema.field(0), pa.array(ids))
    return table.replace_schema_metadata(schema.metadata)


def select(folder: Path) -> None:
    """The stage `select`."""
    run_stage(folder, "select", "data", "overlap", "dedup", "label")


def store(folder: Path) -> None:
    """The index of all soft labels, which a replay opens."""
    from ppcls_core.labels.store import LabelStore

    found = Store.default()
    result = found.load("label", found.last("demo")["label"])
    assert result
    LabelStore.open(result.directory)


def loader(folder: Path) -> None:
    """The loader of a training on the whole pool, up to its first images."""
    from ppcls_core.data.loader import TrainLoader
    from ppcls_core.data.transforms import Preprocess

    found = Store.default()
    result = found.load("data", found.last("demo")["data"])
    assert result
    images = read_images(result.path("pool.arrow"), {"images": str(folder)})
    started = TrainLoader(images, 256, 224, Preprocess(), 0, 2)
    with suppress(UserError):  # none of these images can be decoded
        next(iter(started.batches(0, 0)))


STEPS: dict[str, Callable[[Path], None]] = {
    "data, first": data,
    "data, again": data,
    "ssld status": status,
    "dedup": dedup,
    "label": label,
    "select": select,
    "labels' index": store,
    "loader's start": loader,
}


def run_step(name: str, folder: Path) -> None:
    """One step, in a process of its own: its CPU time and peak memory (KiB) on the last line."""
    STEPS[name](folder)
    print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(name: str, folder: Path) -> tuple[float, float, float, float]:
    """(seconds, CPU seconds, peak MiB, peak without mapped files) of a step, imports included."""
    command = [sys.executable, __file__, "--folder", str(folder), "--step", name]
    environment = os.environ | {"SSLD_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    own, begun = 0.0, time.perf_counter()
    with (
        (folder / "output").open("w+") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
    ):
        while process.poll() is None:
            own = max(own, _own_memory(process.pid))
            time.sleep(0.05)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(text)
    cpu, peak = map(float, text.split()[-2:])
    return time.perf_counter() - begun, cpu, peak / 1024, own / 1024


def _own_memory(pid: int) -> int:
    """Memory of a process that is no page of a file, in KiB; 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--form", choices=FORMS, default="tars")
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--only", choices=STEPS, action="append", help="these steps alone")
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.step:
        return run_step(arguments.step, folder)
    titles = ("images", "step", "seconds", "CPU", "peak MiB", "unmapped")
    table = Table(*titles, title=f"bookkeeping of {arguments.form}")
    for num_images in arguments.images or [100_000, 1_000_000]:
        if not arguments.only:
            shutil.rmtree(folder / "home", ignore_errors=True)
        make_pool(folder, arguments.form, num_images)
        time.sleep(3)  # what has just been written would be read again
        for name in arguments.only or STEPS:
            seconds, cpu, peak, own = measure(name, folder)
            row = (name, f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:,.0f}", f"{own:,.0f}")
            table.add_row(f"{num_images:,}", *row)
            print(f"{num_images:,}", *row, sep="\t", file=sys.stderr, flush=True)
    Console().print(table)
    if arguments.remove:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
