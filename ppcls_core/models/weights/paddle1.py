"""Weights as Paddle 1.x saved them: a folder with one file a variable, or a tar of that folder.

A file is a serialised LoDTensor, all numbers little-endian: uint32 version (0); uint64 number of
LoD levels, each a uint64 size in bytes and as many bytes; uint32 version (0); int32 size of the
description, a protobuf with field 1 the data type and field 2, repeated, the extents; the values.
A variable's name is the file's path, so that a name with slashes lies in folders of its own.
"""

import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

# VarType.Type of Paddle's framework.proto. Type 22 is bfloat16, which NumPy lacks.
_DTYPES = {0: "?", 1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "u1", 21: "i1"}
_DTYPES[22] = "<u2"
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items() if code != 22}
_TYPE_TAG, _EXTENT_TAG, _PACKED_EXTENTS_TAG = 0x08, 0x10, 0x12  # field number * 8 + wire type
_PROGRAM = "__model__"  # the network, which an inference folder holds beside the variables
_LONGEST_PART, _LONGEST_NAME = 255, 4000  # bytes of UTF-8, Linux's limits


class BadTensor(Exception):
    """A file is not a serialised tensor; the message says why."""


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of all files under `folder` by name, sorted, but hidden ones and the program.

    What lies in hidden folders is hidden too. bfloat16 appears as uint16.

    Raises:
        BadTensor: a file of another kind or truncated, or none at all.
        OSError: as reading does.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _arrays({path.relative_to(folder).as_posix(): path.read_bytes for path in files})


def read_tar(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a tar of such a folder, as `read_folder` gives them; nothing is unpacked.

    Raises:
        BadTensor: as `read_folder`; a name that leads out of the folder, a link, or a tar that is
            damaged.
        OSError: as reading does.
    """
    try:
        # Its compressed tars could ask for any amount of memory.
        with tarfile.open(path, "r:") as archive:
            members = {_member_name(member): member for member in archive if not member.isdir()}
            tops = {name.partition("/")[0] for name in members}
            prefix = f"{tops.pop()}/" if len(tops) == 1 else ""
            if prefix and not all(name.startswith(prefix) for name in members):
                prefix = ""  # one file, which is not in a folder
            files = {name.removeprefix(prefix): m for name, m in sorted(members.items())}
            return _arrays({name: partial(_content, archive, m) for name, m in files.items()})
    except tarfile.TarError as error:
        raise BadTensor(f"the tar is damaged: {error}") from error


def _member_name(member: tarfile.TarInfo) -> str:
    name = member.name.removeprefix("./")
    if not member.isreg() or member.issparse():
        raise BadTensor(f"{name[:60]!a} is a link or another file without content of its own")
    if reason := _misplaced(name):
        raise BadTensor(f"the name {name[:60]!a} {reason}")
    return name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file
    return file.read()


def _arrays(files: Mapping[str, Callable[[], bytes]]) -> dict[str, np.ndarray]:
    """The tensors in `files`, by name; hidden ones and the program are left out."""
    visible = {n: read for n, read in files.items() if not _is_hidden(n) and n != _PROGRAM}
    _check_names(visible)
    if not visible:
        raise BadTensor("the folder holds no file")
    return {name: _read_tensor(name, read()) for name, read in visible.items()}


def write_folder(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write each of `arrays` as the file of its name in `folder`, which is whole or absent.

    `folder` is new or empty.

    Raises:
        BadTensor: no arrays, a dtype that the format lacks, or a name that `read_folder` would
            not give back. Nothing is written.
        OSError: as writing does. What was written is removed.
    """
    if not arrays:
        raise BadTensor("no arrays, and a folder cannot say so")
    _check_names(arrays)
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _CODES:
            raise BadTensor(f"{name}: arrays of dtype {array.dtype} are not written")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with this number
    try:
        temporary.mkdir()
        for name, array in arrays.items():
            _write(temporary / name, _tensor_bytes(array))
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:  # where two names are one to the file system, an error
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _check_names(names: Iterable[str]) -> None:
    """Raise BadTensor unless `names` can be those of files that `read_folder` reads."""
    taken = set(names)
    for name in taken:
        reason = _unfit(name)
        if reason:
            raise BadTensor(f"the name {name[:60]!a} {reason}")
        for folder in map(str, PurePosixPath(name).parents):
            if folder in taken:
                raise BadTensor(f"{folder!a} is an array, and the folder of another")


def _unfit(name: str) -> str | None:
    """The reason why `name` cannot be that of a file below the folder; None if it can."""
    parts = name.split("/")
    if reason := _misplaced(name):
        return reason
    if name == _PROGRAM or _is_hidden(name):
        return "is one that reading leaves out"
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "cannot be encoded in UTF-8"
    if max(sizes) > _LONGEST_PART or sum(sizes) + len(parts) > _LONGEST_NAME:
        return "is too long"
    return None


def _misplaced(name: str) -> str | None:
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in name:
        return "is no path below the folder"
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _tensor_bytes(array: np.ndarray) -> bytes:
    dtype = array.dtype.newbyteorder("<")
    description = bytes([_TYPE_TAG]) + _varint(_CODES[dtype])
    description += b"".join(bytes([_EXTENT_TAG]) + _varint(extent) for extent in array.shape)
    header = struct.pack("<IQIi", 0, 0, 0, len(description))
    return header + description + array.astype(dtype, copy=False).tobytes()


def _varint(value: int) -> bytes:
    """A protobuf integer: seven bits a byte, the lowest first, the eighth says that more follow."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


class _Reader:
    """Takes pieces off the front of some bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = memoryview(raw), 0

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self.raw) - self.at:
            raise ValueError("it is truncated")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self, code: str) -> int:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):  # 64 bits take ten bytes
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte <= 0x7F:
                return value
        raise ValueError("a number of more than ten bytes")


def _read_tensor(name: str, raw: bytes) -> np.ndarray:
    reader = _Reader(raw)
    try:
        _expect_zero(reader, "LoDTensor")
        for _ in range(reader.number("<Q")):
            reader.take(reader.number("<Q"))
        _expect_zero(reader, "Tensor")
        dtype, shape = _describe(_Reader(bytes(reader.take(reader.number("<i")))))
        values = np.frombuffer(reader.take(len(raw) - reader.at), dtype)
        return values.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise BadTensor(f"{name}: not a tensor of Paddle 1.x ({error})") from error


def _expect_zero(reader: _Reader, what: str) -> None:
    version = reader.number("<I")
    if version != 0:
        raise ValueError(f"{what} version {version}, expected 0")


def _describe(reader: _Reader) -> tuple[np.dtype, tuple[int, ...]]:
    code, shape = -1, []
    while reader.at < len(reader.raw):
        tag = reader.varint()
        if tag == _TYPE_TAG:
            code = reader.varint()
        elif tag == _EXTENT_TAG:
            shape.append(reader.varint())
        elif tag == _PACKED_EXTENTS_TAG:
            extents = _Reader(bytes(reader.take(reader.varint())))
            while extents.at < len(extents.raw):
                shape.append(extents.varint())
        else:
            raise ValueError(f"field tag {tag}, expected the data type or an extent")
    if code not in _DTYPES:
        raise ValueError(f"data type {code}")
    return np.dtype(_DTYPES[code]), tuple(shape)
