"""Pickles of named arrays, read without running code.

Unpickling a stranger's file calls whatever it names. Here the few classes and functions that a
pickled array names are replaced with inert ones, which can only make arrays of plain numbers from
bytes in the file; every other name is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

Value = np.ndarray | int | float | str

_CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_PARAMETER_NAMES = "StructuredToParameterName@@"  # Paddle's internal names, of no use here
_SLICES = "UnpackBigParamInfor@@"  # arrays over 1 GiB, which Paddle splits in protocols 2 and 3
# What malformed bytes make the unpickler and the inert classes raise.
_MALFORMED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class BadPickle(Exception):
    """The bytes are not a pickle of named arrays; the message says why."""


def read_named_arrays(stream: BinaryIO) -> dict[str, Any]:
    """Arrays and scalars by name, in order, from a pickled dict such as `paddle.save` writes.

    Pickle protocols 2 to 4 are read, those of Python 2 too. The arrays are read-only and in native
    byte order; bfloat16, which NumPy lacks, appears as uint16.

    Raises:
        BadPickle: truncated, of another kind, or asking to run code.
    """
    try:
        return _entries(_ArraysOnly(stream, encoding="latin1").load())
    except _MALFORMED as error:
        raise BadPickle(f"{type(error).__name__}: {error}") from error


def _entries(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError(f"it holds one {type(content).__name__}, not named arrays")
    content.pop(_PARAMETER_NAMES, None)
    split = content.pop(_SLICES, {})
    entries = {name: _value(name, value) for name, value in content.items()}
    for name, layout in split.items():
        pieces = [entries.pop(piece) for piece in layout["slices"]]
        entries[name] = np.concatenate(pieces).reshape(layout["OriginShape"])
    return entries


def _value(name: Any, value: Any) -> Value:
    if isinstance(value, tuple) and len(value) == 2:  # a tensor among scalars: (its name, array)
        value = value[1]
    if isinstance(value, _Array):
        value = value.array
    if not isinstance(name, str) or not isinstance(value, Value):
        raise TypeError(f"entry {name!r} is a {type(value).__name__}, not an array")
    return value


class _Dtype:
    """Stands in for numpy.dtype: the plain numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        if code not in _CODES:
            raise pickle.UnpicklingError(f"arrays of dtype {code!r} are not read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, raw: Any) -> np.ndarray:
        """Flat array of the bytes `raw`, which Python 2 pickled as text."""
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        array = np.frombuffer(raw, self.dtype)
        return array.astype(self.dtype.newbyteorder("="), copy=False)


class _Array:
    """Stands in for numpy.ndarray: made empty, filled by the bytes that follow."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        if (
            not isinstance(dtype, _Dtype)
            or not isinstance(shape, tuple)
            or min(shape, default=0) < 0
        ):
            raise pickle.UnpicklingError(f"an array of dtype {dtype!r} and shape {shape!r}")
        self.array = dtype.read(raw).reshape(shape, order="F" if is_fortran else "C")


class _StandIn:
    """A callable that a pickle may call but, unlike a function or a class, not alter."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *args: Any) -> Any:
        return self.make(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a function, which is refused")


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    return dtype.read(raw)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, which protocols 2 and 3 write as `_codecs.encode(text, "latin1")`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("builtins", "tuple"): _StandIn(tuple),
    ("builtins", "bytes"): _StandIn(lambda: b""),  # protocol 2 writes empty bytes as a call
    ("collections", "OrderedDict"): _StandIn(dict),
    ("_codecs", "encode"): _StandIn(_latin1),
    ("numpy", "dtype"): _StandIn(lambda code, *flags: _Dtype(code)),
    ("numpy", "ndarray"): _StandIn(lambda *args: _Array()),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(lambda *args: _Array()),
    ("numpy.core.multiarray", "scalar"): _StandIn(_scalar),
}

# The same under names that other versions of NumPy and of Python write.
_SYNONYMS = {"numpy._core.multiarray": "numpy.core.multiarray", "__builtin__": "builtins"}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _StandIn:
        key = (_SYNONYMS.get(module, module), name)
        if key not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which is refused")
        return _ALLOWED[key]
