"""Weights: `.pdparams` files, read safely and written reproducibly, and how they enter a model.

No Paddle is needed to read or write a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_catalog.config import UserError
from data_catalog.files import atomic_path
from ppcls_core.models.array_pickle import BadPickle, Value, read_named_arrays

if TYPE_CHECKING:
    import paddle


def save_state(path: Path, state: Mapping[str, Value]) -> None:
    """Write `state` to `path` atomically as a file that `paddle.load` and `load_state` read.

    Equal names, values, dtypes and shapes in equal order give equal bytes, wherever the arrays came
    from. Values are arrays of numbers or booleans, and int, float and str.
    """
    plain = {name: _plain(value) for name, value in state.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        # Without the memo the bytes do not depend on which values are one and the same object.
        pickler.fast = True
        pickler.dump(plain)


def _plain(value: Value | np.generic) -> Value:
    if not isinstance(value, np.ndarray | np.generic):
        return value
    # Filled, not converted: a conversion keeps the metadata that a dtype may carry.
    plain = np.empty(value.shape, value.dtype.newbyteorder("=").str)
    plain[...] = value
    return plain


def load_state(path: Path) -> dict[str, Any]:
    """Entries of the weights file `path`, in its order: arrays, and scalars where it has them.

    `path` may lack its `.pdparams`. The arrays are read-only; bfloat16 appears as uint16.

    Raises:
        UserError: no such file, truncated, of another kind, or asking to run code.
    """
    file = _existing(path)
    try:
        with file.open("rb") as stream:
            return read_named_arrays(stream)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error}); check its rights") from error
    except BadPickle as error:
        raise UserError(
            f"{file}: not a weights file ({error}); expected what `paddle.save` makes of a "
            "model's state dict: copy, download or export it again"
        ) from error


def _existing(path: Path) -> Path:
    with_suffix = path.with_name(path.name + ".pdparams")
    for candidate in (path, with_suffix):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no such file, nor {with_suffix.name}; give the path of the weights")


def state_of(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Copies of the parameters and the batch norms' statistics of `model`, in model order."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def load_weights(model: paddle.nn.Layer, path: Path, *, allow_other_classes: bool) -> list[str]:
    """Fill `model` with the weights file `path`; floats of another precision are converted.

    Args:
        model: any layer with a `classifier` attribute; on an error it stays as it was.
        path: the file, its `.pdparams` may be left out.
        allow_other_classes: leave the classifier as initialised where the file's has another number
            of classes, as transfer to another task needs; otherwise that is an error.

    Returns:
        Names of the entries left as initialised: none, or the classifier's.

    Raises:
        UserError: as `load_state`, or the entries do not fit: the first ten and their number.
    """
    state, own = load_state(path), model.state_dict()
    other = _of_other_classes(f"{model.classifier}.", own, state)
    left = other if allow_other_classes else []
    misfits = _misfits(own, state, left)
    if misfits:
        raise UserError(_message(path, misfits, only_classes=len(misfits) == len(other)))
    for name, tensor in own.items():
        if name not in left:
            tensor.set_value(np.asarray(state[name]).astype(_dtype_of(tensor), copy=False))
    return left


def _of_other_classes(
    prefix: str, own: Mapping[str, paddle.Tensor], state: Mapping[str, Any]
) -> list[str]:
    """The classifier's entries whose shape differs only in the last axis, the classes."""
    shapes = {
        name: (tuple(tensor.shape), np.shape(state[name]))
        for name, tensor in own.items()
        if name.startswith(prefix) and name in state
    }
    return [name for name, (a, b) in shapes.items() if a[:-1] == b[:-1] and a[-1:] != b[-1:]]


def _misfits(
    own: Mapping[str, paddle.Tensor], state: Mapping[str, Any], left: list[str]
) -> list[str]:
    """One line for each entry that keeps `state` from filling `own`, those in `left` excused."""
    misfits = [f"{name}: missing" for name in own if name not in state]
    misfits += [f"{name}: unexpected" for name in state if name not in own]
    for name, tensor in own.items():
        if name in left or name not in state:
            continue
        got, dtype = np.asarray(state[name]), _dtype_of(tensor)
        if list(got.shape) != list(tensor.shape):
            misfits.append(f"{name}: got shape {list(got.shape)}, expected {list(tensor.shape)}")
        elif got.dtype.kind != dtype.kind:
            misfits.append(f"{name}: got {got.dtype}, expected {dtype}")
    return misfits


def _dtype_of(tensor: paddle.Tensor) -> np.dtype:
    return np.dtype(str(tensor.dtype).removeprefix("paddle."))


def _message(path: Path, misfits: list[str], *, only_classes: bool) -> str:
    remedy = (
        "build it for the file's classes, or allow other classes, to start the classifier anew"
        if only_classes
        else "check that the model's name and spec are those that the file was trained with"
    )
    lines = misfits[:10] + ([f"and {len(misfits) - 10} more"] if len(misfits) > 10 else [])
    listed = "\n  ".join(lines)
    return f"{path}: {len(misfits)} entries do not fit the model: {remedy}\n  {listed}"
