"""The manifest: one Parquet row an image, the only form in which data sets travel between stages.

Columns: `image_id` (string, unique in a manifest: the path relative to the data set's root), `root`
(string: the *name* of a root folder, resolved by `Roots`, so that manifests do not depend on where
the data lies), `path` (string, relative to the root), `size` (int64, bytes), `label` (int32, null
when unknown). Schema metadata: `classes` (JSON list of class names, may be empty).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from data_catalog.base.files import write_table

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("root", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("label", pa.int32()),
    ]
)

IDS = pa.schema([("image_id", pa.string())])
REJECTED = pa.schema([("image_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

Roots = dict[str, str]  # name of a root -> absolute folder on this machine


@dataclass(frozen=True)
class Manifest:
    """A list of images: `table` has SCHEMA's columns, `classes` the class names (index = label)."""

    table: pa.Table
    classes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def ids(self) -> list[str]:
        """image_id of each row."""
        return self.table["image_id"].to_pylist()

    @property
    def labels(self) -> np.ndarray:
        """int32 [rows], -1 where the label is unknown."""
        return self.table["label"].fill_null(-1).to_numpy().astype(np.int32)

    def take(self, rows: np.ndarray | Sequence[int]) -> Manifest:
        """The manifest of these rows (positions, or a boolean mask), in that order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return Manifest(self.table.take(pa.array(index)), self.classes)

    def resolve(self, roots: Roots) -> list[Path]:
        """Absolute path of each image."""
        names, paths = self.table["root"].to_pylist(), self.table["path"].to_pylist()
        unknown = set(names) - set(roots)
        if unknown:
            raise UserError(
                f"roots {sorted(unknown)} of the manifest are not among {sorted(roots)}"
            )
        return [Path(roots[name], path) for name, path in zip(names, paths, strict=True)]


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write atomically, byte-identical for equal content."""
    metadata = {b"classes": json.dumps(list(manifest.classes), ensure_ascii=False).encode()}
    table = manifest.table.cast(SCHEMA).replace_schema_metadata(metadata)
    write_table(path, table)


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`.

    Raises:
        UserError: not a Parquet file with SCHEMA's columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read as a manifest ({error}); make it anew") from error
    if table.schema.names != SCHEMA.names:
        raise UserError(f"{path}: got columns {table.schema.names}, expected {SCHEMA.names}")
    classes = json.loads((table.schema.metadata or {}).get(b"classes", b"[]"))
    return Manifest(table.replace_schema_metadata(None), tuple(classes))
