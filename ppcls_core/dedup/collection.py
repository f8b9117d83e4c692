"""The images of a folder, a list file or tars, in a fixed order and without opening any of them.

An id is the path relative to the root given; that of an image within a tar is TAR/member. Tars are
read in place, by the offsets that their headers give; what is wrong with one is said in a row.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.base.config import UserError
from data_catalog.images.columns import REJECTED, SCHEMA, Images
from data_catalog.images.lists import IMAGE_SUFFIXES
from data_catalog.images.tars import COMPRESSED, UNPACK, read_tar
from ppcls_core.data.decode import BadImage, read_bytes

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
LABEL = re.compile(r"\s+[+-]?[0-9]{1,9}$")
Row = tuple[str, bytes, int | None, int]


def collect(given: Path) -> Images:
    """The images of `given`: a folder (images and tars at any depth), a list file or a tar.

    Raises:
        UserError: nothing there, a compressed tar, or an id twice.
    """
    damaged: list[dict[str, str]] = []
    root, found = _rows(given, damaged)
    rows = list(found)
    for name, count in Counter(row[0] for row in rows).most_common(1):
        if count > 1:
            raise UserError(f"{given}: '{name}' is there twice; rename or remove one")
    ids, paths, offsets, sizes = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    roots = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(rows), np.int32)), pa.array(["images"])
    )
    nulls = pa.nulls(len(rows))
    columns = [ids, roots, paths, offsets, sizes, nulls, nulls]
    table = pa.table([pa.array(c) if isinstance(c, list) else c for c in columns], SCHEMA.names)
    return Images(
        table.cast(SCHEMA),
        {"images": str(root.absolute())},
        damaged=pa.Table.from_pylist(damaged, REJECTED),
    )


def content_digest(images: Images) -> str:
    """sha256 (hex) of the ids and contents of `images`."""
    digest = hashlib.sha256()
    for image_id, source in zip(images.ids, images.sources(), strict=True):
        try:
            content = hashlib.sha256(read_bytes(source)).hexdigest()
        except BadImage as error:
            content = error.reason
        digest.update(f"{image_id}\0{content}\0".encode())
    digest.update(repr(images.damaged.to_pylist()).encode())
    return digest.hexdigest()


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
