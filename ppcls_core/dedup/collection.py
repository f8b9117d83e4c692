"""The images of a folder, a list file or tars, in a fixed order and without opening any of them.

An id is the path relative to the root given; that of an image within a tar is TAR/member. Tars are
read in place, by the offsets that their headers give; what is wrong with one is said in a row. The
rows lie in a file, of which a part at a time is held.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.files import atomic_path, digest_of
from data_catalog.images.lists import IMAGE_SUFFIXES
from data_catalog.images.tars import COMPRESSED, UNPACK, read_tar
from ppcls_core.dedup.features.picture import Member, Source

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
PART = 2048  # images whose rows are held at a time
TABLE = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.large_binary()),  # of the file or the tar, relative to the root
        ("offset", pa.int64()),  # within the tar; null for a file
        ("size", pa.int64()),  # bytes; -1: not there
    ]
)
LABEL = re.compile(r"\s+[+-]?[0-9]{1,9}$")
Row = tuple[str, bytes, int | None, int]


@dataclass(frozen=True)
class Collection:
    """Images under `root`: `file` holds a row of TABLE for each, ids are unique; `damaged`:
    REJECTED rows of what could not be read of tars; `digest` is over all these rows."""

    root: Path
    file: Path
    damaged: list[dict[str, str]]
    digest: str
    num: int

    def __len__(self) -> int:
        return self.num

    @property
    def parts(self) -> range:
        """Numbers of the parts, PART images each, the last fewer."""
        return range(-(-self.num // PART))

    def part(self, number: int) -> tuple[list[str], list[Source]]:
        """(image_id, where its bytes are) of each image of a part."""
        rows = self._read(number)
        columns = (rows[name].to_pylist() for name in ("path", "offset", "size"))
        sources: list[Source] = [
            _path(self.root, path)
            if offset is None
            else Member(_path(self.root, path), offset, size)
            for path, offset, size in zip(*columns, strict=True)
        ]
        return rows["image_id"].to_pylist(), sources

    @property
    def ids(self) -> Sequence[str]:
        """image_id of each image, read part by part."""
        return _Column(self, 0)

    @property
    def sources(self) -> Sequence[Source]:
        """Where the bytes of each image are, read part by part."""
        return _Column(self, 1)

    def find(self, ids: Iterable[str]) -> dict[str, Source]:
        """Where those of `ids` that are here lie."""
        wanted, found = pa.array(sorted(set(ids)), pa.string()), {}
        for number in self.parts if len(wanted) else ():
            if pc.any(pc.is_in(self._read(number)["image_id"], wanted)).as_py():
                names = set(wanted.to_pylist())
                found |= {i: s for i, s in zip(*self.part(number), strict=True) if i in names}
        return found

    def _read(self, number: int) -> pa.RecordBatch:
        with pa.OSFile(str(self.file)) as file:
            return pa.ipc.open_file(file).get_batch(number)


@dataclass(frozen=True)
class _Column(Sequence[Any]):
    """One of the lists that `part` gives, for all images."""

    images: Collection
    column: int

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.images.part(n)[self.column] for n in self.images.parts)

    def __getitem__(self, index: Any) -> Any:
        return self.images.part(index // PART)[self.column][index % PART]


def collect(given: Path, file: Path) -> Collection:
    """The images of `given`: a folder (images and tars at any depth), a list file or a tar; their
    rows are written to `file`.

    The list's lines are paths relative to its own folder; a class label behind them is ignored.
    Links are followed, each folder once. Hidden files and files of other kinds are passed over.

    Raises:
        UserError: nothing there, no image there, a compressed tar, or an id twice.
    """
    damaged: list[dict[str, str]] = []
    root, rows = _rows(given, damaged)
    digest, hashes = hashlib.sha256(), array("q")  # 8 bytes an image: all that is held of each
    with atomic_path(file) as temporary, pa.ipc.new_file(str(temporary), TABLE) as writer:
        while part := list(islice(rows, PART)):
            names, paths, offsets, sizes = map(list, zip(*part, strict=True))
            writer.write(pa.record_batch([names, paths, offsets, sizes], TABLE))
            digest.update(digest_of([names, sizes]).encode())
            hashes.extend(map(hash, names))
    digest.update(digest_of(damaged).encode())
    every = np.frombuffer(hashes, np.int64)
    every.sort()
    images = Collection(root, file, damaged, digest.hexdigest(), len(every))
    if not len(images) and not damaged:
        raise UserError(f"{given}: holds no image ({', '.join(SUFFIXES)}) and no tar of images")
    _check_unique(images, set(every[1:][every[1:] == every[:-1]].tolist()), given)
    return images


def _check_unique(images: Collection, suspects: set[int], given: Path) -> None:
    """Refuse an id that is there twice; `suspects`: hashes that are."""
    seen: set[str] = set()
    for image_id in images.ids if suspects else ():
        if hash(image_id) in suspects:
            if image_id in seen:
                raise UserError(f"{given}: '{image_id}' is there twice; rename or remove one")
            seen.add(image_id)


def _rows(given: Path, damaged: list[dict[str, str]]) -> tuple[Path, Iterator[Row]]:
    """(the root, a row for each image)."""
    name = given.name.lower()
    if given.is_dir():
        return given, _folder(given, damaged)
    if not given.is_file():
        raise UserError(f"{given}: no folder, list file or tar there; correct the path")
    if name.endswith(SUFFIXES):
        raise UserError(f"{given}: is an image; give its folder, or a list file that names it")
    if name.endswith(COMPRESSED):
        raise UserError(f"{given}: {UNPACK}")
    if name.endswith(".tar") or tarfile.is_tarfile(given):
        return given.parent, _tar(given.parent, os.fsencode(given.name), damaged)
    return given.parent, _list(given)


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
            path, low = name if below == b"." else below + b"/" + name, os.fsdecode(name).lower()
            if low.endswith(".tar"):
                yield from _tar(root, path, damaged)
            elif low.endswith(COMPRESSED):
                damaged.append(_damage(path, "compressed_tar", UNPACK))
            elif low.endswith(SUFFIXES):
                yield _id(path), path, None, _size(root, path)


def _list(given: Path) -> Iterator[Row]:
    """As `data_catalog.images.lists.read_list` has it, but line by line."""
    try:
        with given.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                name = LABEL.sub("", line.strip()).removeprefix("./")
                if name.startswith("/"):
                    raise UserError(
                        f"{given}:{number}: got the absolute path '{name}', expected one relative "
                        "to the list's folder; shorten it, or move the list"
                    )
                path = os.fsencode(name)
                if name:
                    yield name, path, None, _size(given.parent, path)
    except UnicodeDecodeError as error:
        raise UserError(f"{given}: not a list in UTF-8 text ({error}); give another") from error


def _tar(root: Path, path: bytes, damaged: list[dict[str, str]]) -> Iterator[Row]:
    found = read_tar(_path(root, path), SUFFIXES)
    for name, reason, detail in found.damaged:
        damaged.append(_damage(path + b"/" + name if name else path, reason, detail))
    for name, (offset, size) in found.images.items():
        yield _id(path + b"/" + name), path, offset, size


def _damage(path: bytes, reason: str, detail: str) -> dict[str, str]:
    text = detail.encode("utf-8", "backslashreplace").decode()
    return {"image_id": _id(path), "reason": reason, "detail": text}


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
