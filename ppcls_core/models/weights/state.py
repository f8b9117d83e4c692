"""From a file of weights into a network, and from a network to arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.published import published_weights, static_names
from ppcls_core.models.weights.files import load_state
from ppcls_core.models.weights.record import said_of

if TYPE_CHECKING:
    import paddle

    from ppcls_core.models.networks.layers import Network

_log = logging.getLogger(__name__)
_PADDLE_S = {"running_mean": "_mean", "running_var": "_variance"}
_STATISTICS = tuple(_PADDLE_S)
_COUNTS = ".num_batches_tracked"  # steps of a batch norm, which have no effect


def state_of(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Copies of the parameters and the batch norms' statistics of `model`, in model order.

    bfloat16, which NumPy lacks, appears as uint16.
    """
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def load_weights(
    model: Network, path: Path, on_new_classifier: Callable[[str], object] | None = None
) -> None:
    """Fill `model` with the weights `path`: the one way from a file or folder into a network.

    Every format of `load_state` is taken, Paddle 1.x's names for the model's architecture too; what
    lies beside these, such as an optimizer's velocities, is left out, and that is logged. Floats of
    another precision are converted.

    Args:
        model: in any precision. On an error it stays as it was.
        path: as in `load_state`. uint16 is bfloat16 where the model has floats.
        on_new_classifier: allows weights for another number of classes, as transfer to another task
            needs: the classifier then stays as initialised, and this is called with the sentence
            that the user has to read. Without it such weights are an error.

    Raises UserError: as `load_state`, or the entries do not fit: the first ten and their number.
    """
    own = model.state_dict()
    given = load_state(path)
    state = with_model_names(given, list(own), model.architecture)
    other = of_other_classes(model.classifiers, own, state)
    left = other if on_new_classifier else []
    unexpected = [name for name in state if name not in own]
    misfits = misfits_of(own, state, left)
    if not _are_paddle1(given, own, model.architecture):
        misfits += [f"{name}: unexpected" for name in unexpected]
    if misfits:
        if len(misfits) == len(other):
            raise _classes_error(path, _num_classes(own, state, other))
        raise misfits_error(path, misfits)
    if unexpected:
        shown = ", ".join(unexpected[:5])
        num = counted(len(unexpected), "entry that is", "entries that are")
        _log.warning(f"{path}: {num} not the model's left out: {shown}")
    for name, tensor in own.items():
        if name not in left:
            tensor.set_value(_in_dtype(np.asarray(state[name]), _dtype_of(tensor)))
    if on_new_classifier and left:
        got, expected = _num_classes(own, state, left)
        on_new_classifier(
            f"{path}: the classifier is new: the weights are for {counted(got, 'class')}, the "
            f"model has {expected}; {' and '.join(left)} start as initialised"
        )


def with_model_names(
    state: Mapping[str, Any], keys: Sequence[str], architecture: str
) -> dict[str, Any]:
    """`state` under the `keys` of the network's state dict.

    The names that Paddle 1.x gave the variables of `architecture` are replaced if all are there;
    all others stay. So are PyTorch's where the published weights of `architecture` are of it: they
    are in the network's order, and have linear layers' weights the other way around.
    """
    row = published_weights().get(architecture)
    if row and row.package and any(name.endswith(_STATISTICS) for name in state):
        return _from_pytorch(state, keys)
    if not _are_paddle1(state, keys, architecture):
        return dict(state)
    renamed = dict(zip(static_names()[architecture], keys, strict=True))
    return {renamed.get(name, name): value for name, value in state.items()}


def _are_paddle1(state: Mapping[str, Any], keys: Collection[str], architecture: str) -> bool:
    """Whether all entries of the network are there under the names of Paddle 1.x."""
    names = static_names().get(architecture, ())
    return len(names) == len(keys) and set(names) <= state.keys()


def _from_pytorch(state: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    kept = {name: value for name, value in state.items() if not name.endswith(_COUNTS)}
    leaves = [name.rpartition(".")[2] for name in kept]
    if [_PADDLE_S.get(leaf, leaf) for leaf in leaves] != [key.rpartition(".")[2] for key in keys]:
        return dict(state)
    return {
        key: value.T if np.ndim(value) == 2 else value
        for key, value in zip(keys, kept.values(), strict=True)
    }


def of_other_classes(
    classifiers: Sequence[str], own: Mapping[str, paddle.Tensor], state: Mapping[str, Any]
) -> list[str]:
    """The classifiers' entries whose shape differs in the number of classes only."""
    prefixes = tuple(f"{name}." for name in classifiers)
    return [
        name
        for name, tensor in own.items()
        if name.startswith(prefixes)
        and name in state
        and _differ_in_classes(tuple(tensor.shape), np.shape(state[name]))
    ]


def _differ_in_classes(own: tuple[int, ...], got: tuple[int, ...]) -> bool:
    """The classes are a convolution's first axis and the last of a linear layer or a bias."""
    axis = 0 if len(own) == 4 else -1
    return (
        len(own) == len(got) and own != got and [*np.delete(own, axis)] == [*np.delete(got, axis)]
    )


def misfits_of(
    own: Mapping[str, paddle.Tensor], state: Mapping[str, Any], left: Sequence[str]
) -> list[str]:
    """A line for each entry of `own` that `state` cannot fill, those in `left` excused."""
    misfits = [f"{name}: missing" for name in own if name not in state]
    for name, tensor in own.items():
        if name in left or name not in state:
            continue
        got, dtype = np.asarray(state[name]), _dtype_of(tensor)
        if list(got.shape) != list(tensor.shape):
            misfits.append(f"{name}: got shape {list(got.shape)}, expected {list(tensor.shape)}")
        elif _is_float(dtype) and got.dtype == np.uint16:
            continue
        elif got.dtype.kind != ("f" if _is_float(dtype) else np.dtype(dtype).kind):
            misfits.append(f"{name}: got {got.dtype}, expected {dtype}")
        elif not np.isfinite(got).all():
            misfits.append(f"{name}: holds NaN or infinity, as weights of a failed training do")
    return misfits


def _dtype_of(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def _is_float(dtype: str) -> bool:
    return "float" in dtype  # np.dtype knows no bfloat16


def _in_dtype(value: np.ndarray, dtype: str) -> np.ndarray:
    """`value` as a tensor of `dtype` takes it: uint16 for bfloat16."""
    import paddle

    if value.dtype == np.uint16 and _is_float(dtype):
        if dtype == "bfloat16":
            return value
        value = without_bfloat16(value)
    if dtype == "bfloat16":
        return paddle.to_tensor(value, place=paddle.CPUPlace()).astype(dtype).numpy()
    return value.astype(dtype, copy=False)


def without_bfloat16(value: np.ndarray) -> np.ndarray:
    """Floats as they are; uint16, which bfloat16 appears as, as equal float32."""
    if value.dtype != np.uint16:
        return value
    return (value.astype(np.uint32) << 16).view(np.float32)  # their upper half


def _num_classes(
    own: Mapping[str, paddle.Tensor], state: Mapping[str, Any], classifier: Sequence[str]
) -> tuple[int, int]:
    """Numbers of classes that the weights are for, and that the model has.

    A bias is the last entry of a `classifier`, its length the number of classes.
    """
    return np.shape(state[classifier[-1]])[-1], own[classifier[-1]].shape[-1]


def _classes_error(path: Path, classes: tuple[int, int]) -> UserError:
    got, expected = classes
    return UserError(
        f"{path}: the weights are for {counted(got, 'class')}, the model has {expected}: give "
        f"weights for {expected} (or, for a model of {got}, type `-o num_classes={got}`)"
    )


_REMEDY = (
    "check that the model's name is the file's, and give spec where its network was narrower or "
    "shallower (`spec: {width: 8}` in YAML, `-o model.spec.width=8` for a command)"
)


def misfits_error(path: Path, misfits: list[str], remedy: str = _REMEDY) -> UserError:
    """The error that tells the first ten of `misfits`, their number, and what model the weights are
    of where that lies beside them."""
    lines = misfits[:10] + ([f"and {len(misfits) - 10} more"] if len(misfits) > 10 else [])
    listed = "\n  ".join(lines)
    what = f"{counted(len(misfits), 'entry does', 'entries do')} not fit the model"
    return UserError(f"{path}: {what}: {remedy}{said_of(path)}\n  {listed}")
