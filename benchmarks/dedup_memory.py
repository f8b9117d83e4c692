"""Peak memory and time of the duplicate search's bookkeeping by size of the pool.

    python benchmarks/dedup_memory.py [--sizes 100000 1000000 14200000] [--kind tars|within]

`tars`: the pool is an image set of rows alone, as of tars of 1,300 members. The search is stood in
for: it finds a pair for one image of a hundred, nearly one for one of a thousand, rejects one of a
thousand, and opens none. `within` searches small real images in one another, index and all (use
sizes of thousands). Each size has a process of its own. Peaks are of the process's own memory;
mapped files, which the kernel takes back when it needs the room, are beside them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from data_catalog.images.columns import (
    IDS,
    REJECTED,
    SCHEMA,
    Images,
    Source,
    loose_images,
    read_images,
)
from data_catalog.images.columns import PART as BATCH
from ppcls_core.dedup import run as driver
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match.detect import ScanResult
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import FOUND
from ppcls_core.dedup.search import Search
from ppcls_core.runtime.monitor import SilentMonitor

PAIRED, REFUSED, REJECTED_EVERY = 100, 1000, 1000  # one image of so many
MEMBERS = 1300  # of a tar
SHARD_SIZE = 32_768  # as the pipeline has it
SMALL = DedupConfig(side=64, min_side=64, num_features=64, canaries=0)


class Measured(NamedTuple):
    """Peaks in MB, before and during the search; its seconds."""

    before: float
    own: float
    mapped: float
    seconds: float


def stand_in(
    sources: Sequence[Source],
    ids: Sequence[str],
    index: ValIndex,
    workers: int,
    on_image: Callable[[], None],
) -> ScanResult:
    """As `scan`, without opening an image."""
    names = list(ids)

    def rows(names: list[str], margin: float) -> pa.Table:
        row = {"val_id": index.ids[0], "channel": "sift", "score": 0.7, "inliers": 40}
        row |= {"margin": margin, "transform": np.eye(3).ravel().tolist()}
        row |= {"pool_sha256": "0" * 64, "val_sha256": index.bytes_digests[0]}
        return pa.Table.from_pylist([{"pool_id": i, **row} for i in names], FOUND)

    bad = [{"image_id": i, "reason": "truncated", "detail": "."} for i in names[2::REJECTED_EVERY]]
    return ScanResult(
        rows(names[::PAIRED], 0.2),
        rows(names[1::REFUSED], -0.1),
        pa.Table.from_pylist(bad, REJECTED),
        IDS.empty_table(),
    )


def tar_rows(path: Path, size: int) -> Images:
    """An image set of `size` members of tars that are not there."""
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        paths = [b"n%08d.tar" % number for number in range(-(-size // MEMBERS))]
        values = pa.array(paths, pa.binary())
        for start in range(0, size, BATCH):
            numbers = np.arange(start, min(start + BATCH, size))
            tars = numbers // MEMBERS
            tar_of = pa.DictionaryArray.from_arrays(pa.array(tars.astype(np.int32)), values)
            zeros = pa.array(np.zeros(len(numbers), np.int32))
            columns = [
                [f"n{t:08d}.tar/n{t:08d}_{n}.JPEG" for t, n in zip(tars, numbers, strict=True)],
                pa.DictionaryArray.from_arrays(zeros, pa.array(["images"])),
                tar_of.cast(SCHEMA.field("path").type),
                numbers % MEMBERS * 2048 + 512,
                np.full(len(numbers), 1500),
                pa.nulls(len(numbers), pa.int32()),
                pa.array([n.tobytes() * 2 for n in numbers], pa.binary(16)),
            ]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return read_images(path, {"images": str(path.parent)})


def small_pictures(folder: Path, size: int) -> Images:
    """`size` small JPEGs."""
    folder.mkdir()
    names = [f"{number}.jpg" for number in range(size)]
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).uniform(0, 255, (12, 12, 3))
        image = cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / name), image)
    return loose_images(folder, names)


def measure(name: str, kind: str, size: int) -> Measured:
    """Search one pool."""
    folder = Path(name)
    val = None if kind == "within" else small_pictures(folder / "val", 1)
    if val:
        driver.scan = stand_in
        pool = tar_rows(folder / "pool.arrow", size)
    else:
        pool = small_pictures(folder / "pool", size)
    search = Search(pool, val, folder / "out", SMALL, 2, SHARD_SIZE)
    before, start = resident()[0], time.monotonic()
    with peaks() as peak:
        driver.find_duplicates(search, SilentMonitor())
    return Measured(before, *peak, time.monotonic() - start)


def resident() -> tuple[float, float]:
    """Memory of this process in MB: (its own, of files)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    own, of_files = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, of_files


@contextmanager
def peaks() -> Iterator[list[float]]:
    """The most of `resident` while the block runs, looked up every 10 ms."""
    most, over = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            most[:] = map(max, most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 14_200_000])
    parser.add_argument("--kind", choices=("tars", "within"), default="tars")
    options = parser.parse_args()
    table = Table("images", "own MB before", "own MB, most", "mapped MB, most", "seconds")
    context = multiprocessing.get_context("spawn")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder, context.Pool(1) as process:
            figures = process.apply(measure, (folder, options.kind, size))
        table.add_row(f"{size:,}", *(f"{figure:,.0f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
