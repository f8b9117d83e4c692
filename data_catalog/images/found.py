"""The outcome of a reader of files, before any image is read: rows, and when each changed."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_catalog.base.threads import map_threads
from data_catalog.images.columns import Images
from data_catalog.images.formats import HEAD, kind_of

BATCH = 512  # files that a thread looks at before it takes others
Count = Callable[[int], None]  # is given the number of images since the last call
WORKERS = 8  # threads: they wait for a disk, which a network's answers side by side


class FileState(NamedTuple):
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
    """`images` without contents of whole files; `changed` (int64 [rows], ns) as in FileState, 0 for
    an image within a tar. `lines` (int32 [rows], from 1): where the rows stand in the list
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
) -> Iterator[tuple[list[bytes], list[FileState]]]:
    """(paths, state of each), BATCH at a time; `paths` are relative to `root`.

    Files whose names do not say what they are are opened; in a list everything is an image.
    """
    base = os.fsencode(root) + b"/"

    def batch(names: list[bytes]) -> tuple[list[bytes], list[FileState]]:
        state = _listed_state if is_list else _state
        return names, [state(base + name) for name in names]

    rest = iter(paths)
    return map_threads(batch, iter(lambda: list(islice(rest, BATCH)), []), WORKERS)


def _listed_state(path: bytes) -> FileState:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        return FileState(-1, 0, 0, 0, 1, "")
    inode = status.st_ino - (status.st_ino >> 63 << 64)  # as a signed number, for the columns
    return FileState(status.st_size, status.st_ctime_ns, status.st_dev, inode, status.st_nlink, "")


def _state(path: bytes) -> FileState:
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
    return state._replace(reason="" if kind == "image" else kind)


def _head(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - bytes
        return file.read(HEAD)
