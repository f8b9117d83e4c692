"""Peak memory and time of a teacher's label file, by its number of rows.

    OMP_NUM_THREADS=1 python benchmarks/label_file.py [--rows 100000 1000000 10000000] [--csv]

A file of probabilities of 10 classes, a column a class, is taken over as the teacher stage does,
then its rows are found shard by shard as the label stage does: each in a process of its own, whose
peak is that of everything that it held, Python and its libraries included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from ppcls_core.labels.config import LabelFileConfig
from ppcls_core.labels.table import LabelRows, import_labels

CLASSES = tuple(f"class {number}" for number in range(10))
SHARD, PIECE = 32_768, 1 << 18


def ids(first: int, last: int) -> list[str]:
    """Image ids in ascending order."""
    return [f"pool/{number // 1000:06d}/{number:09d}.jpg" for number in range(first, last)]


def write(path: Path, num_rows: int) -> None:
    """A file of `num_rows` rows, a piece at a time."""
    rng = np.random.default_rng(0)
    fields = [("image_id", pa.string()), *((name, pa.float32()) for name in CLASSES)]
    schema = pa.schema(fields)
    kind = pa.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
    with kind(path, schema) as writer:
        for first in range(0, num_rows, PIECE):
            names = ids(first, min(first + PIECE, num_rows))
            values = rng.dirichlet(np.ones(len(CLASSES)), len(names)).astype(np.float32)
            writer.write_table(pa.table([names, *values.T], schema=schema))


def take_over(path: Path, target: Path, num_rows: int) -> None:
    """As the teacher stage."""
    config = LabelFileConfig(labels=str(path), outputs="probabilities")
    assert import_labels(config, CLASSES, target) == num_rows


def find(path: Path, target: Path, num_rows: int) -> None:
    """As the label stage."""
    rows = LabelRows(target)
    for first in range(0, num_rows, SHARD):
        _, found = rows.find(ids(first, min(first + SHARD, num_rows)))
        assert found.all()


def measured(work: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """(seconds, peak MB) of `work` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(work, arguments, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return result


def _run(work: Callable[..., None], arguments: tuple[object, ...], pipe: object) -> None:
    start = time.perf_counter()
    work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send((time.perf_counter() - start, peak))  # type: ignore[attr-defined]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--csv", action="store_true")
    asked = parser.parse_args()
    table = Table("rows", "file MB", "take over s", "peak MB", "find all s", "peak MB")
    for num_rows in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            path, target = (
                Path(folder, "in.csv" if asked.csv else "in.parquet"),
                Path(folder, "out"),
            )
            measured(write, path, num_rows)
            first, second = (measured(w, path, target, num_rows) for w in (take_over, find))
            size = path.stat().st_size / 1e6
        table.add_row(f"{num_rows:,}", *(f"{x:,.1f}" for x in (size, *first, *second)))
    Console().print(table)


if __name__ == "__main__":
    main()
