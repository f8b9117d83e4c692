"""Files of weights, read without running code in them, written reproducibly, without Paddle.

Three formats: `.pdparams` as `paddle.save` writes it, `.safetensors`, and the folder of one file a
variable of Paddle 1.x. A name decides: the suffix, or that it is a folder.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from data_catalog.config import UserError
from data_catalog.files import atomic_path, write_bytes
from ppcls_core.models.array_pickle import BadPickle, Value, read_named_arrays
from ppcls_core.models.scattered import BadTensor, read_scattered, write_scattered

PICKLE, SAFETENSORS = ".pdparams", ".safetensors"


def load_state(path: Path) -> dict[str, Any]:
    """Entries of the weights `path`, in their order: arrays, and scalars where a pickle has them.

    `path` may lack its `.pdparams`. The arrays may be read-only; bfloat16 appears as uint16.

    Raises:
        UserError: no such file, truncated, of another kind, or asking to run code.
    """
    found = _existing(path)
    try:
        if found.is_dir():
            return dict(read_scattered(found))
        if found.suffix == SAFETENSORS:
            return dict(safetensors.numpy.load_file(found))
        with found.open("rb") as stream:
            return read_named_arrays(stream)
    except OSError as error:
        raise UserError(f"{found}: cannot be read ({error}); check its rights") from error
    except (BadPickle, BadTensor, SafetensorError, TypeError, KeyError) as error:
        raise UserError(
            f"{found}: not a weights file ({error}); expected what `paddle.save` makes of a state "
            "dict, a .safetensors file, or a folder of Paddle 1.x with one file a variable: "
            "copy, download or export it again"
        ) from error


def _existing(path: Path) -> Path:
    with_suffix = path.with_name(path.name + PICKLE)
    for candidate in (path, with_suffix):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        return path
    raise UserError(f"{path}: no such file, nor {with_suffix.name}; give the path of the weights")


def save_state(path: Path, state: Mapping[str, Value]) -> None:
    """Write `state` to `path` atomically, as what `paddle.load` and `load_state` read.

    Equal names, values, dtypes and shapes in equal order give equal bytes, wherever the arrays came
    from. Values are arrays of numbers or booleans, and int, float and str.
    """
    plain = {name: _plain(value) for name, value in state.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        # Without the memo the bytes do not depend on which values are one and the same object.
        pickler.fast = True
        pickler.dump(plain)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` in the format that the suffix of `path` names; without one, as a folder.

    Raises:
        UserError: another suffix, or a value or a name for which the format has no place.
    """
    if path.suffix == PICKLE:
        return save_state(path, arrays)
    strange = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise UserError(f"{path}: takes arrays only, and {strange[0]} is none; write a {PICKLE}")
    if path.suffix == SAFETENSORS:
        return write_bytes(path, safetensors.numpy.save(_contiguous(arrays)))
    if path.suffix or path.is_file():
        raise UserError(f"{path}: expected {PICKLE}, {SAFETENSORS}, or a folder (no suffix)")
    try:
        write_scattered(path, arrays)
    except BadTensor as error:
        raise UserError(f"{path}: {error}; write a {PICKLE}") from error
    return None


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _plain(value: Value | np.generic) -> Value:
    if not isinstance(value, np.ndarray | np.generic):
        return value
    # Filled, not converted: a conversion keeps the metadata that a dtype may carry.
    plain = np.empty(value.shape, value.dtype.newbyteorder("=").str)
    plain[...] = value
    return plain
