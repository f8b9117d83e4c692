"""Tables of the result, written row by row so that none of them is held."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import atomic_path
from ppcls_core.dedup.match.pairs import PAIRS

ROWS = 1 << 13  # of a row group: those that are held
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet runs a cell that begins so
TRANSFORM = [f"t{row}{column}" for row in range(3) for column in range(3)]


@dataclass(frozen=True)
class RowWriter:
    """Adds rows to an open Parquet file."""

    file: pq.ParquetWriter
    schema: pa.Schema
    waiting: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these rows, now or later."""
        self.waiting.extend(rows)
        if len(self.waiting) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        self.file.write_table(pa.Table.from_pylist(self.waiting, self.schema))
        self.waiting.clear()


@contextmanager
def rows_to(path: Path, schema: pa.Schema) -> Iterator[RowWriter]:
    """A writer of the Parquet file `path`, which is there when the block ends well."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        writer = RowWriter(file, schema)
        yield writer
        writer.flush()


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
