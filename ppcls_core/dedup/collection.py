"""The images of a folder, a list file or tars, in a fixed order and without opening any of them.

An id is the path relative to the root given; that of an image within a tar is TAR/member. Tars are
read in place, by the offsets that their headers give.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.config import UserError
from data_catalog.lists import BATCH, IMAGE_SUFFIXES, read_list
from data_catalog.manifest import REJECTED
from ppcls_core.dedup.picture import Member, Source

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
TABLE = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.large_binary()),  # of the file or the tar, relative to the root
        ("offset", pa.int64()),  # within the tar; null for a file
        ("size", pa.int64()),  # bytes; -1: not there
    ]
)
Row = tuple[str, bytes, int | None, int]


@dataclass(frozen=True)
class Collection:
    """Images under `root`: `table` has TABLE's columns, ids are unique; `damaged`: REJECTED rows of
    tars that could not be read to their end."""

    root: Path
    table: pa.Table
    damaged: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def ids(self, rows: range) -> list[str]:
        """image_id of each of these rows."""
        return self._part(rows)["image_id"].to_pylist()

    def sources(self, rows: range) -> list[Source]:
        """Where the bytes of each of these rows are."""
        part = self._part(rows)
        columns = (part[name].to_pylist() for name in ("path", "offset", "size"))
        return [
            _path(self.root, path)
            if offset is None
            else Member(_path(self.root, path), offset, size)
            for path, offset, size in zip(*columns, strict=True)
        ]

    def find(self, ids: list[str]) -> dict[str, Source]:
        """Where those of `ids` that are here lie."""
        rows = np.flatnonzero(pc.is_in(self.table["image_id"], pa.array(ids, pa.string())))
        return {
            self.ids(one)[0]: self.sources(one)[0]
            for r in rows.tolist()
            for one in [range(r, r + 1)]
        }

    def _part(self, rows: range) -> pa.Table:
        return self.table.slice(rows.start, len(rows))


def collect(given: Path) -> Collection:
    """The images of `given`: a folder (images and tars at any depth), a list file or a tar.

    The list's lines are paths relative to its own folder; a class label behind them is ignored.
    Links are followed, each folder once. Hidden files and files of other kinds are passed over.

    Raises:
        UserError: nothing there, no image there, or a list with a path twice.
    """
    damaged: list[dict[str, str]] = []
    if given.is_dir():
        root, rows = given, _folder(given, damaged)
    elif not given.is_file():
        raise UserError(f"{given}: no folder, list file or tar there; correct the path")
    elif tarfile.is_tarfile(given):
        root, rows = given.parent, _tar(given.parent, os.fsencode(given.name), damaged)
    elif given.suffix.lower() in SUFFIXES:
        raise UserError(f"{given}: is an image; give its folder, or a list file that names it")
    else:
        root, rows = given.parent, _list(given)
    batches = []
    while batch := list(islice(rows, BATCH)):
        batches.append(pa.table([list(column) for column in zip(*batch, strict=True)], TABLE))
    table = pa.concat_tables([TABLE.empty_table(), *batches])
    if not len(table) and not damaged:
        raise UserError(f"{given}: holds no image ({', '.join(SUFFIXES)}) and no tar of images")
    if pc.count_distinct(table["image_id"]).as_py() < len(table):
        counts = pc.value_counts(table["image_id"]).to_pylist()
        name = next(row["values"] for row in counts if row["counts"] > 1)
        raise UserError(f"{given}: '{name}' is there twice; rename or remove one")
    return Collection(root, table, pa.Table.from_pylist(damaged, REJECTED))


def _folder(root: Path, damaged: list[dict[str, str]]) -> Iterator[Row]:
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(os.fsencode(root), followlinks=True):
        status = os.stat(parent)  # noqa: PTH116 - bytes
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # a link back, or a second one
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        below = os.path.relpath(parent, os.fsencode(root))
        for name in sorted(name for name in files if not name.startswith(b".")):
            path = name if below == b"." else below + b"/" + name
            if name.lower().endswith(b".tar"):
                yield from _tar(root, path, damaged)
            elif name.lower().endswith(tuple(s.encode() for s in SUFFIXES)):
                yield _id(path), path, None, _size(root, path)


def _list(given: Path) -> Iterator[Row]:
    for name in read_list(given).paths.to_pylist():
        path = os.fsencode(name)
        yield name, path, None, _size(given.parent, path)


def _tar(root: Path, path: bytes, damaged: list[dict[str, str]]) -> Iterator[Row]:
    """Image members, in the tar's order; of members of one name the last, which tar unpacks."""
    rows: dict[str, Row] = {}
    try:
        with tarfile.open(_path(root, path), "r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined] - it keeps each for ever
                if member.isreg() and member.name.lower().endswith(SUFFIXES):
                    name = _id(path + b"/" + os.fsencode(member.name))
                    rows[name] = (name, path, member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        detail = f"read as a tar without compression: {error}"
        damaged.append({"image_id": _id(path), "reason": "damaged_tar", "detail": detail})
    yield from rows.values()


def _id(path: bytes) -> str:
    """The path as text; bytes that are not UTF-8 are written out (\\xff)."""
    return path.decode("utf-8", "backslashreplace")


def _path(root: Path, path: bytes) -> Path:
    return root / os.fsdecode(path)


def _size(root: Path, path: bytes) -> int:
    try:
        return _path(root, path).stat().st_size
    except (OSError, ValueError):
        return -1
