"""Tables of the result, written part by part so that none of them is held."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import atomic_path
from ppcls_core.dedup.match.pairs import PAIRS

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet runs a cell that begins so
TRANSFORM = [f"t{row}{column}" for row in range(3) for column in range(3)]


@contextmanager
def table_to(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A function that adds tables to the Parquet file `path`, which is there when the block ends
    well."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):

        def add(table: pa.Table) -> None:
            if table.num_rows:
                file.write_table(table.select(schema.names))

        yield add


def write_csv(pairs: Path, path: Path) -> None:
    """The PAIRS table of a Parquet file as CSV, the transform as nine columns.

    An id that a spreadsheet would take for a formula gets `./` before it: the same relative path.
    """
    names = [name for name in PAIRS.names if name != "transform"]
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
        pq.ParquetFile(pairs) as table,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow([*names, *TRANSFORM])
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                writer.writerow(map(_cell, [*(row[name] for name in names), *row["transform"]]))


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")  # what float32 knows
    return f"./{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
