"""Pickles of named arrays, read without running code.

Unpickling a stranger's file calls whatever it names. Here the few classes and functions that a
pickled array names are replaced with inert ones, which can only make arrays of plain numbers from
bytes in the file; every other name is refused. Python's own unpickler in Python does the work, with
the opcodes alone that arrays need: the one in C can be crashed by nesting and made to take
gigabytes by a few bytes. What comes from the file is known by its type before it is hashed,
compared or shown, and counts against a budget.

PyTorch's files hold the numbers beside the pickle, in storages of which a tensor is a view. Since
version 1.6 they are zip archives of the two; before, the storages followed the pickle.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from types import MethodType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data_catalog.base.words import counted

Value = np.ndarray | int | float | str

LONGEST_NAME = 1000  # characters
_CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_BYTE_ORDERS = frozenset("<>=|")
_MOST_AXES = 64  # NumPy's limit
_PARAMETER_NAMES = "StructuredToParameterName@@"  # Paddle's internal names, of no use here
_SLICES = "UnpackBigParamInfor@@"  # arrays over 1 GiB, which Paddle splits in protocols 2 and 3
# An array takes 40 steps, so that the checkpoint of a network of 1300 entries takes 400,000. A
# step can take 100 bytes of memory.
_MOST_STEPS = 2_000_000
# A number in the file may be made thrice: as bytes, in an array, and in one of Paddle's joined
# ones. The rest is for objects, not numbers, in small files.
_SHARE, _SPARE = 3, 1 << 20
_PAIR = 100  # bytes that a dict takes for an item
# What NumPy calls the numbers of PyTorch's storages; bfloat16, which it lacks, as their bits.
_STORAGES = {
    **{"BoolStorage": "b1", "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2"},
    **{"IntStorage": "i4", "LongStorage": "i8", "BFloat16Storage": "u2", "HalfStorage": "f2"},
    **{"FloatStorage": "f4", "DoubleStorage": "f8"},
}
_ATTRIBUTES = ["_metadata"]  # versions of the layers, which PyTorch hangs on a state dict
# What malformed bytes make the unpickler and the reader of archives raise beside our own errors.
_MALFORMED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    OSError,  # a place before the start
    OverflowError,
    RuntimeError,  # an encrypted archive, or one of a later version
    TypeError,
    ValueError,
)
_BEFORE_1_6 = 0x1950A86A20F9469CFC6C  # what such a file of PyTorch starts with, pickled
_LONGEST_DIRECTORY = 1 << 22  # bytes of an archive's, of which each can take ten bytes of memory


class BadPickle(Exception):
    """The bytes are not a pickle of named arrays; the message says why."""


def read_named_arrays(stream: BinaryIO) -> dict[str, Any]:
    """Arrays and scalars by name, in order, from a dict as `paddle.save` or `torch.save` writes it.

    Pickle protocols 2 to 5 are read, 2 as Python 2 writes it too. Arrays are in native byte order
    and may be read-only; bfloat16, which NumPy lacks, appears as uint16. What is made takes a small
    multiple of the file's size. `stream` can seek and is read from its start.
    Raises BadPickle: truncated, of another kind, or asking to run code or for too much memory.
    """
    source = _Source(stream)
    makers = _Makers(_SHARE * source.size + _SPARE)
    try:
        content = _load_archive(stream, makers) if _is_archive(stream) else _load(source, makers)
        return _entries(content, makers)
    except _MALFORMED as error:
        reason = f"{type(error).__name__}: {str(error)[:200]!a}"
        raise BadPickle(f"it is malformed, {reason}") from error


def check_name(name: Any) -> str:
    """`name` if it can be an entry's: text that UTF-8 can encode, of at most LONGEST_NAME. Raises
    BadPickle: it cannot."""
    if type(name) is not str:
        raise BadPickle(f"a name is a {type(name).__name__}, not text")
    if len(name) > LONGEST_NAME:
        raise BadPickle(
            f"a name has {counted(len(name), 'character')}, expected at most {LONGEST_NAME}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadPickle(f"the name {_shown(name)} cannot be encoded in UTF-8") from None
    return name


def _is_archive(stream: BinaryIO) -> bool:
    """Whether it is a zip archive, or else starts as a pickle does."""
    start = stream.read(4)
    stream.seek(0)
    if start[:2] == b"PK":
        return True
    if start[:1] != b"\x80" or start[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
        raise BadPickle("it does not start as a pickle of protocol 2 to 5 does")
    return False


def _load(source: _Source, makers: _Makers) -> Any:
    """The content of the pickle `source`, or of PyTorch's five and its storages in a row."""
    content = _ArraysOnly(source, makers).load()
    if type(content) is not int or content != _BEFORE_1_6:
        return content
    _, machine, content, keys = (_ArraysOnly(source, makers).load() for _ in range(4))
    _check_order(machine["little_endian"] is True)
    for key in keys:
        storage = makers.storages[check_name(key)]
        num = int.from_bytes(source.read(8), "little")
        storage.fill(source.read(num * storage.dtype.itemsize))
    return content


def _load_archive(stream: BinaryIO, makers: _Makers) -> Any:
    """The content of a zip of FOLDER/data.pkl and the storages FOLDER/data/KEY."""
    end: Any = zipfile._EndRecData(stream)  # typeshed does not know it  # pyright: ignore
    if not end or end[5] > _LONGEST_DIRECTORY:
        raise BadPickle("it is a zip archive that is truncated or of too many entries")
    with zipfile.ZipFile(stream) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        folders = [name[:-8] for name in entries if name.endswith("/data.pkl")]
        sizes = [max(info.file_size, info.compress_size) for info in archive.infolist()]
        if len(folders) != 1 or len(sizes) != len(entries):
            raise BadPickle("it is a zip archive, but has not one FOLDER/data.pkl, as PyTorch's do")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise BadPickle("it is a zip archive of compressed entries, which PyTorch's are not")
        if sum(sizes) > stream.seek(0, os.SEEK_END):
            raise BadPickle("it is a zip archive whose entries take more than the file")
        order = f"{folders[0]}byteorder"
        _check_order(order not in entries or archive.read(order) == b"little")
        pickled = io.BytesIO(archive.read(f"{folders[0]}data.pkl"))
        content = _ArraysOnly(_Source(pickled), makers).load()
        for key, storage in makers.storages.items():
            storage.fill(archive.read(f"{folders[0]}data/{key}"))
    return content


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise BadPickle("it is of a machine of another byte order")


def _shown(text: str) -> str:
    """Foreign text as one that fits a message: short, printable, in ASCII."""
    return ascii(text[:60])


def _entries(content: Any, makers: _Makers) -> dict[str, Any]:
    if type(content) is not dict:
        raise BadPickle(f"it holds one {type(content).__name__}, not named arrays")
    content.pop(_PARAMETER_NAMES, None)
    split = content.pop(_SLICES, {})
    entries = {name: _value(name, value, makers) for name, value in content.items()}
    if type(split) is not dict:
        raise BadPickle(f"{_SLICES} is a {type(split).__name__}, not a dict")
    for name, layout in split.items():
        entries[name] = makers.joined(entries, layout)
    return entries


def _value(name: str, value: Any, makers: _Makers) -> Value:
    if type(value) is tuple and len(value) == 2:  # a tensor among scalars: (its name, array)
        value = value[1]
    if type(value) is _Array and value.array is not None:
        return value.array
    if type(value) is _Tensor:
        return makers.numbers_of(value)
    if not isinstance(value, int | float | str):
        kind = "array without values" if type(value) is _Array else type(value).__name__
        raise BadPickle(f"entry {_shown(name)} is a {kind}, not an array")
    return value


def _is_shape(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) <= _MOST_AXES
        and all(type(extent) is int and 0 <= extent < 1 << 63 for extent in value)
    )


class _Source:
    """The file's bytes; reading past the end fails before memory is taken for what is not there."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = self.left = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise BadPickle("it is truncated")
        self.left -= size
        return self.stream.read(size)

    def readline(self) -> bytes:
        line = self.stream.readline()
        self.left -= len(line)
        return line


class _Dtype:
    """Stands in for numpy.dtype: the plain numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code)

    def build(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if type(order) is not str or order not in _BYTE_ORDERS:
            raise BadPickle("a dtype without a byte order")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]  # one of the four


class _Array:
    """Stands in for numpy.ndarray: made empty, filled by the bytes that follow."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array


class _Storage:
    """Numbers of PyTorch's tensors, filled after the pickle has been read."""

    __slots__ = ("dtype", "num", "numbers")

    def __init__(self, dtype: np.dtype, num: int) -> None:
        self.dtype, self.num = dtype, num
        self.numbers: np.ndarray | None = None

    def fill(self, raw: bytes) -> None:
        if self.numbers is not None or len(raw) != self.num * self.dtype.itemsize:
            raise BadPickle(f"a storage of {self.num} numbers has {len(raw)} bytes, or others too")
        self.numbers = np.frombuffer(raw, self.dtype)


class _Tensor(NamedTuple):
    """Stands in for torch.Tensor: a view of a storage; offset and strides count its numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Makers:
    """The callables that a pickle may use, as methods; all counts against one budget."""

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes
        self.steps = _Steps()
        self.storages: dict[str, _Storage] = {}

    def spend(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left < 0:
            raise BadPickle("it asks for arrays that take several times the memory of the file")

    def dtype(self, code: Any, _align: Any, _copy: Any) -> _Dtype:
        if type(code) is not str or code not in _CODES:
            shown = _shown(code) if type(code) is str else f"a {type(code).__name__}"
            raise BadPickle(f"arrays of dtype {shown} are not read")
        return _Dtype(code)

    def array(self, _kind: Any, _shape: Any, _code: Any) -> _Array:
        return _Array()

    def fill(self, array: _Array, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        array.array = self.numbers(raw, dtype, shape, "F" if is_fortran is True else "C")

    def from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
        """As protocol 5 has an array: its bytes first; `axes` of NumPy 2.3 and later."""
        if order == "K" and _is_shape(axes):
            return _Array(self.numbers(raw, dtype, shape, "C").transpose(axes))
        return _Array(self.numbers(raw, dtype, shape, order))

    def scalar(self, dtype: Any, raw: Any) -> int | float:
        return self.numbers(raw, dtype, (), "C").item()

    def numbers(self, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """Array of the bytes `raw`, which Python 2 pickled as text."""
        if type(raw) is str:
            raw = self.latin1(raw, "latin1")
        if (
            type(raw) is not bytes
            or type(dtype) is not _Dtype
            or not _is_shape(shape)
            or type(order) is not str
            or order not in ("C", "F")
        ):
            raise BadPickle(
                f"an array of a {type(raw).__name__} with a {type(dtype).__name__} for dtype and "
                f"a {type(shape).__name__} for shape"
            )
        needed = math.prod(shape) * dtype.dtype.itemsize
        if needed != len(raw):
            raise BadPickle(f"an array has {len(raw)} bytes, not those of its shape and dtype")
        self.spend(len(raw))
        array = np.frombuffer(raw, dtype.dtype)
        array = array.astype(dtype.dtype.newbyteorder("="), copy=False)
        return array.reshape(shape, order=order)

    def storage(self, reference: Any) -> _Storage:
        """The storage of ("storage", type, key, device, number of elements, no view)."""
        if type(reference) is not tuple or len(reference) not in (5, 6):
            raise BadPickle(f"a storage referred to by a {type(reference).__name__}")
        _, dtype, key, _, num, *view = reference
        if type(dtype) is not _Dtype or not _is_shape((num,)) or view not in ([], [None]):
            raise BadPickle("a storage without its type and size, or as a view of another")
        storage = self.storages.setdefault(check_name(key), _Storage(dtype.dtype, num))
        if (storage.dtype, storage.num) != (dtype.dtype, num):
            raise BadPickle(f"the storage {_shown(key)} has two types or sizes")
        return storage

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_flags: Any) -> _Tensor:
        is_view = all(map(_is_shape, ((offset,), shape, strides))) and len(shape) == len(strides)
        if type(storage) is not _Storage or not is_view:
            raise BadPickle(f"a tensor of a {type(storage).__name__}, or not a view of its storage")
        return _Tensor(storage, offset, shape, strides)

    def parameter(self, tensor: Any, *_flags: Any) -> Any:
        return tensor

    def numbers_of(self, tensor: _Tensor) -> np.ndarray:
        """Copied where they do not lie in a row."""
        storage, offset, shape, strides = tensor
        size, numbers = storage.dtype.itemsize, storage.numbers
        reach = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        if numbers is None or (0 not in shape and offset + reach >= storage.num):
            raise BadPickle("a tensor reaches beyond its storage")
        self.spend(math.prod(shape) * size)
        numbers = numbers[offset:]
        view = np.lib.stride_tricks.as_strided(numbers, shape, [size * s for s in strides])
        return np.asarray(view, order="C")

    def joined(self, entries: dict[str, Value], layout: Any) -> np.ndarray:
        """The array that Paddle split into some of `entries`, which are taken out."""
        names, shape = None, None
        if type(layout) is dict:
            names, shape = layout.get("slices"), layout.get("OriginShape")
        if type(names) is not list or not _is_shape(shape):
            raise BadPickle("a split array without a list of its slices and its shape")
        pieces = []
        for name in names:
            piece = entries.pop(check_name(name), None)
            if not isinstance(piece, np.ndarray) or piece.ndim != 1:
                raise BadPickle(f"a split array's slice {_shown(name)} is missing or no flat array")
            self.spend(piece.nbytes)
            pieces.append(piece)
        return np.concatenate(pieces, casting="no").reshape(shape)

    def latin1(self, text: Any, encoding: Any) -> bytes:
        """Bytes, which protocol 2 writes as `_codecs.encode(text, "latin1")`."""
        if type(text) is not str or type(encoding) is not str or encoding != "latin1":
            raise BadPickle(f"bytes made of a {type(text).__name__} by another codec than latin1")
        self.spend(len(text))
        return text.encode("latin1")

    def no_bytes(self) -> bytes:
        """Empty bytes, which protocol 2 writes as a call."""
        return b""

    def as_tuple(self, items: Any) -> tuple[Any, ...]:
        if type(items) is not tuple:
            raise BadPickle(f"a tuple made of a {type(items).__name__}")
        return items

    def ordered_dict(self, pairs: Any = ()) -> dict[str, Any]:
        """Python 2 gives the items as a list of lists, Python 3 afterwards."""
        if type(pairs) not in (list, tuple) or not all(
            type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs
        ):
            raise BadPickle(f"an OrderedDict made of a {type(pairs).__name__} that has no pairs")
        self.spend(_PAIR * len(pairs))
        return {check_name(name): value for name, value in pairs}


_MAKERS: dict[tuple[str, str], str | type] = {
    ("builtins", "tuple"): "as_tuple",
    ("builtins", "bytes"): "no_bytes",
    ("collections", "OrderedDict"): "ordered_dict",
    ("_codecs", "encode"): "latin1",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): _Array,  # an argument of _reconstruct, never called itself
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy.core.numeric", "_frombuffer"): "from_buffer",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
}

# The same under names that other versions of NumPy and of Python write.
_SYNONYMS = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}


class _Steps:
    """Handlers by opcode, for a limited number of steps."""

    def __init__(self) -> None:
        self.left = _MOST_STEPS

    def __getitem__(self, opcode: int) -> Callable[[_ArraysOnly], None]:
        if opcode not in _HANDLERS:
            raise BadPickle(f"it has opcode {opcode:#04x}, which arrays do not need")
        self.left -= 1
        if self.left < 0:
            raise BadPickle(f"it takes more than {_MOST_STEPS:,} steps to read")
        return _HANDLERS[opcode]


_UnpicklerInPython: Any = pickle._Unpickler  # typeshed knows none of its attributes  # pyright: ignore[reportPrivateUsage]


class _ArraysOnly(_UnpicklerInPython):
    def __init__(self, source: _Source, makers: _Makers) -> None:
        super().__init__(source, encoding="latin1")
        self.makers = makers
        self.dispatch = makers.steps
        self.persistent_load = makers.storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Dtype(_STORAGES[name])
        maker = _MAKERS.get((_SYNONYMS.get(module, module), name))
        if maker is None:
            raise BadPickle(f"it asks to run {_shown(f'{module}.{name}')}, which is refused")
        return getattr(self.makers, maker) if isinstance(maker, str) else maker

    def load_int(self) -> None:
        """Python 2 writes integers beyond 32 bits as text."""
        line = self.readline()
        if len(line) > 24:
            raise BadPickle("an integer of more than 64 bits")
        self.append(int(line))

    def load_bytearray8(self) -> None:
        """As bytes, and not before it is known that the file has so many."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, MethodType) or type(args) is not tuple:
            raise BadPickle(f"it calls a {type(function).__name__}, which is refused")
        self.stack[-1] = function(*args)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(state) is tuple and type(target) is _Array:
            self.makers.fill(target, state)
        elif type(state) is tuple and type(target) is _Dtype:
            target.build(state)
        elif type(target) is not dict or type(state) is not dict or [*state] != _ATTRIBUTES:
            raise BadPickle(f"it alters a {type(target).__name__}, which is refused")

    def load_setitem(self) -> None:
        self._set_items([self.stack.pop(-2), self.stack.pop()])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise BadPickle(f"it sets items of a {type(target).__name__}")
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[check_name(name)] = value


# What protocols 2 to 5 write for arrays and scalars by name. There are no sets, no extensions, no
# other ways to make an object, nothing of protocols 0 and 1 alone; persistent ids for storages.
_INHERITED = (
    "PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "SHORT_BINSTRING BINSTRING "  # of Python 2
    "EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT "
    "GLOBAL STACK_GLOBAL BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE BINPERSID"
)
_HANDLERS: dict[int, Callable[[_ArraysOnly], None]] = {
    **{
        opcode: _UnpicklerInPython.dispatch[opcode]
        for opcode in (getattr(pickle, name)[0] for name in _INHERITED.split())
    },
    pickle.INT[0]: _ArraysOnly.load_int,
    pickle.BYTEARRAY8[0]: _ArraysOnly.load_bytearray8,
    pickle.REDUCE[0]: _ArraysOnly.load_reduce,
    pickle.BUILD[0]: _ArraysOnly.load_build,
    pickle.SETITEM[0]: _ArraysOnly.load_setitem,
    pickle.SETITEMS[0]: _ArraysOnly.load_setitems,
}
