"""What a reader of files found, before any image is read: rows, and when each file changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_catalog.base.threads import map_threads
from data_catalog.images.columns import SCHEMA, Images
from data_catalog.images.formats import HEAD, kind_of, text_of

BATCH = 512  # files that a thread looks at before it takes others
WORKERS = 8  # threads: they wait for a disk, which a network's answers side by side
ROOT = "images"  # the name of the one root of a set that is read


class State(NamedTuple):
    """A file as the system describes it.

    `size` is -1 where there is none; `changed` is the time of its last change (ctime, ns), 0 where
    there is no file; `device` and `inode` are equal for two names of one file; `reason` says why
    it is passed over, "" where it is an image and "tar" for a tar.
    """

    size: int
    changed: int
    device: int
    inode: int
    num_names: int
    reason: str


@dataclass(frozen=True)
class Found:
    """`images` without contents of whole files; `changed` (int64 [rows], ns) as in State, 0 for
    an image within a tar. `lines` (int64 [rows], from 1): where the rows stand in the list
    `source`; None for a folder or tar, of which `tops` names the folders and tars at its top."""

    source: Path
    images: Images
    changed: np.ndarray
    lines: np.ndarray | None = None
    tops: tuple[str, ...] = ()

    def at(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.source}:{self.lines[row]}" if self.lines is not None else str(self.source)


def states(
    root: Path, paths: Iterable[bytes], *, is_list: bool
) -> Iterator[tuple[list[bytes], list[State]]]:
    """(paths, state of each), BATCH at a time; `paths` are relative to `root`.

    Files whose names do not say what they are are opened; in a list everything is an image.
    """
    base = os.fsencode(root) + b"/"

    def batch(names: list[bytes]) -> tuple[list[bytes], list[State]]:
        state = _listed_state if is_list else _state
        return names, [state(base + name) for name in names]

    return map_threads(batch, _batches(paths), WORKERS)


def _batches(paths: Iterable[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    for path in paths:
        part.append(path)
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part


def _listed_state(path: bytes) -> State:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return State(-1, 0, 0, 0, 1, "")
    if not stat.S_ISREG(status.st_mode):
        return State(-1, 0, 0, 0, 1, "")
    inode = status.st_ino - (status.st_ino >> 63 << 64)  # as a signed number, for the columns
    return State(status.st_size, status.st_ctime_ns, status.st_dev, inode, status.st_nlink, "")


def _state(path: bytes) -> State:
    state = _listed_state(path)
    if state.size < 0:
        if os.path.exists(path):  # noqa: PTH110 - bytes
            return state._replace(reason="special_file")
        is_image = kind_of(path, bytes) == "image"
        return state if is_image else state._replace(reason="broken_link")
    try:
        kind = kind_of(path, partial(_head, path))
    except OSError:
        return state._replace(reason="unreadable")
    reasons = {"image": "", "other": "not_an_image"}
    return state._replace(reason=reasons.get(kind, kind))


def _head(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - bytes
        return file.read(HEAD)


class Columns:
    """What is known of many files, without a Python object a file."""

    def __init__(self, width: int = 5) -> None:
        self._width = width  # how many of State's fields are kept
        self._paths: list[pa.Array] = []
        self._states: list[np.ndarray] = []

    def add(self, paths: list[bytes], found: list[State]) -> None:
        """Append files."""
        if paths:
            self._paths.append(pa.array(paths, pa.binary()))
            self.add_states(found)

    def add_states(self, found: list[State]) -> None:
        """Append files of which the paths are known otherwise."""
        rows = [state[: self._width] for state in found]
        self._states.append(np.array(rows, np.int64).reshape(-1, self._width))

    def column(self, field: str) -> np.ndarray:
        """A field of State of every file: int64 [files]."""
        at = State._fields.index(field)
        return np.concatenate([np.empty(0, np.int64), *(part[:, at] for part in self._states)])

    @property
    def paths(self) -> pa.ChunkedArray:
        """The paths (binary)."""
        return pa.chunked_array(self._paths, pa.binary())


def whole_files(root: Path, paths: Sequence[bytes]) -> Images:
    """The files with those paths, relative to `root`, as they are given: none is passed over."""
    sizes = [state.size for _, part in states(root, paths, is_list=True) for state in part]
    labels = pa.chunked_array([pa.nulls(len(paths), pa.int32())])
    table = file_table(pa.chunked_array([paths], pa.binary()), np.array(sizes, np.int64), labels)
    return Images(table, {ROOT: str(root.absolute())})


def file_table(paths: pa.ChunkedArray, sizes: np.ndarray, labels: pa.ChunkedArray) -> pa.Table:
    """Rows of SCHEMA of whole files, `paths` (binary) being relative to the root ROOT."""
    parts, start = [SCHEMA.empty_table()], 0
    for chunk in paths.chunks:
        stop = start + len(chunk)
        part = _file_part(chunk, sizes[start:stop], labels.slice(start, stop - start))
        parts.append(part)
        start = stop
    return pa.concat_tables(parts)


def _file_part(paths: pa.Array, sizes: np.ndarray, labels: pa.ChunkedArray) -> pa.Table:
    num = len(paths)
    kept = pa.nulls(num, pa.binary())
    try:
        ids = paths.cast(pa.string())
    except pa.ArrowInvalid:  # a name is not UTF-8
        raw = paths.to_pylist()
        texts = list(map(text_of, raw))
        pairs = zip(raw, texts, strict=True)
        kept = pa.array([p if text.encode() != p else None for p, text in pairs], pa.binary())
        ids = pa.array(texts, pa.string())
    return pa.table(
        {
            "image_id": ids,
            "root": root_column(num),
            "path": kept.dictionary_encode(),
            "offset": pa.nulls(num, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "label": labels.combine_chunks(),
            "content": pa.nulls(num, pa.binary(16)),
        },
        schema=SCHEMA,
    )


def root_column(num: int) -> pa.DictionaryArray:
    """`num` rows of the root ROOT."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([ROOT]))
