"""Peak memory of `ppcls dedup` by size of the pool; the search itself is stood in for.

    python benchmarks/dedup_memory.py [--sizes 62500 250000 1000000] [--kind tars|list|within]

The pool is made: tars of 1,000 empty members, or a list of names. The stand-in finds a pair for one
image of a hundred, refuses one of a thousand and opens none. Each size has a process of its own.
`within` searches small real images in one another, index and all (use sizes of thousands).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from data_catalog.images.manifest import REJECTED
from ppcls_core.dedup import run as command
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features.picture import Source
from ppcls_core.dedup.match.detect import ScanResult
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.dedup.match.pairs import PAIRS
from ppcls_core.runtime.monitor import SilentMonitor

EVERY, REFUSED = 100, 1000  # one image of so many
MEMBERS = 1000  # of a tar
SMALL = DedupConfig(side=64, min_side=64, num_features=64, canaries=0)


def stand_in(
    sources: Sequence[Source],
    ids: Sequence[str],
    index: ValIndex,
    workers: int,
    on_image: Callable[[], None],
) -> ScanResult:
    """As `scan`, without looking at an image."""

    def rows(ids: Sequence[str], margin: float) -> pa.Table:
        row = {"val_id": index.ids[0], "channel": "sift", "score": 0.7, "inliers": 40}
        row |= {"margin": margin, "transform": np.eye(3).ravel().tolist()}
        return pa.Table.from_pylist([{"pool_id": i, **row} for i in ids], PAIRS)

    refused = rows(ids[1::REFUSED], -0.1)
    return ScanResult(rows(ids[::EVERY], 0.2), refused, REJECTED.empty_table(), [])


def make_pool(folder: Path, kind: str, size: int) -> Path:
    """A pool of that many images that are none, or, for `within`, of small pictures."""
    if kind == "list":
        with (folder / "list.txt").open("w") as file:
            for number in range(size):
                file.write(f"n{number // 1300:08d}/n{number // 1300:08d}_{number}.JPEG 0\n")
        return folder / "list.txt"
    pool = folder / "pool"
    pool.mkdir()
    if kind == "within":
        for number in range(size):
            noise = np.random.default_rng(number).uniform(0, 255, (12, 12, 3))
            image = cv2.resize(noise, (64, 64), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(pool / f"{number}.jpg"), image)
        return pool
    for start in range(0, size, MEMBERS):
        with tarfile.open(pool / f"n{start:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(start, min(start + MEMBERS, size)):
                archive.addfile(tarfile.TarInfo(f"n{start:08d}_{number}.JPEG"))
    return pool


def measure(folder: str, kind: str, size: int) -> tuple[float, float, float]:
    """(peak before the search, peak after it, in MB; seconds)."""
    val = Path(folder, "val")
    val.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cv2.imwrite(str(val / "v.png"), picture)
    pool = make_pool(Path(folder), kind, size)
    against = None if kind == "within" else val
    if against:
        command.scan = stand_in
    search = command.Search(pool, against, Path(folder, "out"), SMALL, 2)
    before, start = peak(), time.monotonic()
    command.dedup(search, SilentMonitor())
    return before, peak(), time.monotonic() - start


def peak() -> float:
    """Most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[62_500, 250_000, 1_000_000])
    parser.add_argument("--kind", choices=("tars", "list", "within"), default="tars")
    options = parser.parse_args()
    table = Table("images", "peak MB before", "peak MB after", "seconds")
    context = multiprocessing.get_context("spawn")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder, context.Pool(1) as process:
            figures = process.apply(measure, (folder, options.kind, size))
        table.add_row(f"{size:,}", *(f"{figure:,.0f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
