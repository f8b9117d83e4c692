"""An image is known by its content: 16 bytes of a sha256, read once and kept until a file changes.

The cache holds, by the path of a file, its size, the time of its last change and its content; of a
tar all that `read_tar` found. A file whose size and time are the same is not read again. A file
that changed less than RACY before it was read is not kept: a second change may bear the same time.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.download import weights_folder
from data_catalog.base.files import atomic_path, digest_of
from data_catalog.base.threads import map_threads
from data_catalog.images.columns import SCHEMA, Images, PassedOver
from data_catalog.images.found import BATCH, WORKERS, Count, Found
from data_catalog.images.tars import MEMBERS, Damage, TarImages, content_at, read_tar

FORMAT = 2  # of the cache; raised when readers find other things
RACY = 2_000_000_000  # ns
ENTRY = np.dtype([("key", "<u8"), ("size", "<i8"), ("changed", "<i8"), ("content", "V16")])
Progress = Callable[[int, int], None]  # (images done, images in all)

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where contents are kept: `$SSLD_HOME/cache/images`, by default in the user's cache."""
    return weights_folder().parent / "cache" / "images"


def content_digest(images: Images) -> str:
    """sha256 (hex) over ids, labels, contents, class names and damage: it changes with any image,
    and neither with where the images lie nor with how the table is chunked."""
    table, labels = images.table, hashlib.sha256()
    for chunk in table["label"].chunks:  # one array of all would be copied four times
        labels.update(chunk.fill_null(-1).to_numpy())
    parts = [
        _digest(chunk.cast(pa.binary()) for chunk in table["image_id"].chunks),
        labels.hexdigest(),
        _digest(chunk.cast(pa.binary()) for chunk in table["content"].chunks),
    ]
    return digest_of([parts, list(images.classes), images.damaged.to_pylist()])


def _digest(chunks: Iterator[pa.Array]) -> list[str]:
    """sha256 of the lengths (-1: null) and of the bytes of binary values."""
    lengths, values = hashlib.sha256(), hashlib.sha256()
    for chunk in chunks:
        lengths.update(pc.binary_length(chunk).fill_null(-1).to_numpy(zero_copy_only=False))
        _, ends, data = chunk.fill_null(b"").buffers()
        if data is not None and len(chunk):
            at = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            values.update(memoryview(data)[at[0] : at[-1]])
    return [lengths.hexdigest(), values.hexdigest()]


@dataclass
class Contents:
    """Reads contents, with the cache in `folder` if that is not None."""

    folder: Path | None

    def tar(self, path: Path) -> TarImages:
        """The images in the tar, with contents; walked again only if it changed."""
        try:
            status = path.stat()
        except OSError:
            return read_tar(path, with_contents=True)
        state = [FORMAT, status.st_size, status.st_ctime_ns]
        file = self._file("tars", path, ".arrow")
        kept = file and _kept_tar(file, state)
        if kept:
            return kept
        start = time.time_ns()
        found = read_tar(path, with_contents=True)
        if file and start - status.st_ctime_ns > RACY:
            self._write(file, partial(_write_tar, found, state))
        return found

    def of(self, found: Found, count: Count) -> Images:
        """The images found, with the contents of whole files, which `count` counts."""
        images = found.images
        if images.table["offset"].null_count == 0:  # tars alone
            count(len(images))
            return images
        root = Path(*images.roots.values())
        file = self._file("files", root, ".npy")
        known = _kept_files(file) if file else np.empty(0, ENTRY)
        reading = _Reading(found, os.fsencode(root) + b"/", known)
        latest = time.time_ns() - RACY
        for num in map_threads(reading.read, range(0, len(images), BATCH), WORKERS):
            count(num)
        fresh = np.flatnonzero(reading.is_fresh & (found.changed < latest))
        if file and len(fresh):
            self._write(file, partial(reading.write, fresh))
        at = SCHEMA.get_field_index("content")
        table = images.table.set_column(at, SCHEMA.field(at), reading.column())
        return replace(images, table=table)

    def _file(self, kind: str, path: Path, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
        return self.folder / kind / f"{name}{suffix}"

    def _write(self, file: Path, write: Callable[[Path], None]) -> None:
        """Write a file of the cache; where that is impossible, go on without."""
        try:
            with atomic_path(file) as temporary:
                write(temporary)
        except OSError as error:
            _log.warning(
                "%s: contents of images cannot be kept (%s), so they are read again each time; "
                "set SSLD_HOME to a folder that can be written",
                self.folder,
                error.strerror or error,
            )
            self.folder = None


class _Reading:
    """Contents of the images found, where `known` (ENTRY [n]) does not have them: a row each.

    Columns of 14.2 million rows are made once and filled in: lists of their parts would take
    gigabytes more.
    """

    def __init__(self, found: Found, base: bytes, known: np.ndarray) -> None:
        self.found, self.base, self.known = found, base, known
        num = len(found.images)
        self.keys, self.contents = np.zeros(num, "<u8"), np.zeros(num, "V16")
        self.is_there, self.is_fresh = np.zeros((2, num), bool)

    def read(self, start: int) -> int:
        """Fill in BATCH rows from `start` on; how many there are."""
        table, rows = self.found.images.table.slice(start, BATCH), slice(start, start + BATCH)
        contents, is_there = self.contents[rows], self.is_there[rows]
        is_file, content = table["offset"].is_null().to_numpy(), table["content"].combine_chunks()
        contents[:] = np.frombuffer(content.buffers()[1], "V16")[content.offset :][: len(table)]
        is_there[:] = content.is_valid()
        if not is_file.any():
            return len(table)
        names = zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True)
        paths = [os.fsencode(image_id) if path is None else path for image_id, path in names]
        keys = (hashlib.blake2b(path, digest_size=8).digest() for path in paths)
        self.keys[rows] = np.frombuffer(b"".join(keys), "<u8")
        sizes = table["size"].to_numpy()
        if len(self.known):
            places = np.searchsorted(self.known["key"], self.keys[rows])
            old = self.known[np.minimum(places, len(self.known) - 1)]
            state = {"key": self.keys[rows], "size": sizes, "changed": self.found.changed[rows]}
            is_kept = np.logical_and.reduce([old[name] == now for name, now in state.items()])
            contents[is_kept & is_file] = old["content"][is_kept & is_file]
            is_there |= is_kept & is_file
        for row in np.flatnonzero(is_file & ~is_there & (sizes >= 0)).tolist():
            value = _file_content(self.base + paths[row])
            if value is not None:
                contents[row], is_there[row], self.is_fresh[start + row] = (
                    np.void(value),
                    True,
                    True,
                )
        return len(table)

    def column(self) -> pa.Array:
        """The contents, null where they cannot be read."""
        valid = pa.py_buffer(np.packbits(self.is_there, bitorder="little"))
        values = [valid, pa.py_buffer(self.contents)]
        return pa.Array.from_buffers(pa.binary(16), len(self.contents), values)

    def write(self, fresh: np.ndarray, temporary: Path) -> None:
        """Write the known entries and those of the rows `fresh`, sorted by key; of a key in both
        the new one."""
        num, sizes = len(self.known), self.found.images.table["size"].to_numpy()
        keys = np.concatenate([self.known["key"], self.keys[fresh]])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        order = order[np.append(keys[1:] != keys[:-1], True)]
        head = {"descr": np.lib.format.dtype_to_descr(ENTRY), "fortran_order": False}
        with temporary.open("wb") as file:  # mapped, it would count as memory of this process
            np.lib.format.write_array_header_1_0(file, head | {"shape": order.shape})
            for start in range(0, len(order), 1 << 20):
                places = order[start : start + (1 << 20)]
                part, is_old = np.empty(len(places), ENTRY), places < num
                part[is_old] = self.known[places[is_old]]
                rows = fresh[places[~is_old] - num]
                columns = (self.keys, sizes, self.found.changed, self.contents)
                for name, column in zip(ENTRY.names or (), columns, strict=True):
                    part[name][~is_old] = column[rows]
                part.tofile(file)


def _file_content(path: bytes) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - bytes
            return content_at(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError:
        return None


def _kept_files(file: Path) -> np.ndarray:
    try:
        known = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return np.empty(0, ENTRY)
    return known if known.dtype == ENTRY and known.ndim == 1 else np.empty(0, ENTRY)


def _kept_tar(file: Path, state: list[int]) -> TarImages | None:
    """The images that the cache has of a tar in that state."""
    try:
        with pa.OSFile(str(file)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        metadata = table.schema.metadata
        if json.loads(metadata[b"state"]) != state:
            return None
        rest = json.loads(metadata[b"rest"])
    except (OSError, pa.ArrowInvalid, ValueError, KeyError, TypeError):
        return None
    # All columns lie in one piece of memory, which the names would keep alive after they have
    # become ids: the others are copied.
    columns = [
        table["name"],
        *(pa.concat_arrays([*c.chunks, pa.nulls(0, c.type)]) for c in table.columns[1:]),
    ]
    return TarImages(
        pa.table(columns, schema=MEMBERS),
        tuple(PassedOver(reason, num, tuple(names)) for reason, num, names in rest["passed_over"]),
        tuple(Damage(*entry) for entry in rest["damaged"]),
        tuple(rest["tops"]),
    )


def _write_tar(found: TarImages, state: list[int], temporary: Path) -> None:
    passed_over = [(entry.reason, entry.count, entry.examples) for entry in found.passed_over]
    rest = {"passed_over": passed_over, "damaged": found.damaged, "tops": found.tops}
    metadata = {"state": json.dumps(state), "rest": json.dumps(rest)}
    with pa.ipc.new_file(str(temporary), MEMBERS.with_metadata(metadata)) as writer:
        writer.write_table(found.table.replace_schema_metadata(metadata))
