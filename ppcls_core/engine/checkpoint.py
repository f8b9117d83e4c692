"""Everything a training needs to go on as if it had not stopped, in one atomic file.

It holds its own digest: a training that goes on from altered numbers gives a wrong result silently.
The checkpoint before the newest is kept too, for the day when the newest is damaged. Of several
processes (distributed.py) the first one writes and reads, and the others take from it what it read.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from data_catalog.base.config import UserError
from ppcls_core.data.lost import Lost
from ppcls_core.engine.averages import Average
from ppcls_core.engine.distributed import set_in_place, world
from ppcls_core.models.weights.files import load_state, save_state
from ppcls_core.runtime.monitor import Monitor

FILE, PREVIOUS = "checkpoint.pdckpt", "checkpoint.previous.pdckpt"
REMEDY = (  # where a training diverges
    "lower `lr` or take a longer warm-up (or set `clip_norm`); an earlier checkpoint, if any, is "
    "kept"
)


@dataclass
class Position:
    """Where a training stands: `step` counts from its start; `history` holds a row an epoch.

    An epoch whose steps are done but which has no row yet is still to be validated.
    """

    step: int = 0
    loss_sum: float = 0.0  # over the steps of the epoch that has no row yet
    history: list[dict[str, float]] = field(default_factory=list)
    rejected: Lost = field(default_factory=dict)  # training images that could not be read
    overflows: int = 0  # steps of that epoch that fp16 left out, as their loss was not finite


@dataclass
class State:
    """All that changes while a model is trained."""

    model: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer  # of `make_optimizer`
    scaler: paddle.amp.GradScaler
    average: Average | None = None
    position: Position = field(default_factory=Position)


def save(directory: Path, state: State) -> None:
    """Write `state` atomically as the newest checkpoint; the newest so far becomes the previous.
    Raises UserError: a weight is not finite; the checkpoints stay as they are."""
    require_finite(state)
    with world().together():  # none may end, and have the others ended, before the file is whole
        if world().is_first:
            _write(directory, state)


def _write(directory: Path, state: State) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _tensors(state).items()}
    arrays["position"] = np.frombuffer(json.dumps(_position_of(state)).encode(), np.uint8)
    newest, pending = directory / FILE, directory / "checkpoint.next"
    save_state(pending, {**arrays, "digest": _digest(arrays)})
    if newest.exists():
        newest.replace(directory / PREVIOUS)
    pending.replace(newest)  # a kill before this line leaves the previous one to go on from


def restore(directory: Path, state: State, monitor: Monitor) -> None:
    """Load the newest whole checkpoint, if any. Raises UserError: all are damaged, or another's."""
    with world().together():
        if world().is_first:
            _read_newest(directory, state, monitor)
    if world().size > 1:
        _set_position(state, world().gather(_position_of(state))[0])
        world().follow_first(_tensors(state).values())


def _read_newest(directory: Path, state: State, monitor: Monitor) -> None:
    found = [path for path in (directory / FILE, directory / PREVIOUS) if path.exists()]
    for path in found:
        arrays = _read(path)
        if arrays is not None:
            _fill(state, arrays, path)
            if path != found[0]:
                monitor.note(f"{found[0]}: damaged checkpoint; goes on from the one before it")
                path.replace(found[0])  # or `save` would keep the damaged one in its place
            return
    if found:
        names = " and ".join(map(str, found))
        raise UserError(f"{names}: damaged checkpoint; delete it to train from the start")


def require_finite(state: State) -> None:
    """Raise UserError if a weight or a running statistic of the model is not finite."""
    tensors = state.model.state_dict()
    are_finite = paddle.stack([tensor.isfinite().all() for tensor in tensors.values()]).numpy()
    for name, is_finite in zip(tensors, are_finite.tolist(), strict=True):
        if not is_finite:
            raise UserError(
                f"{name} of the model is not finite after step {state.position.step - 1}: {REMEDY}"
            )


def _tensors(state: State) -> dict[str, paddle.Tensor]:
    """The tensors of `state` themselves, no copies, by name in the checkpoint."""
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    names = {parameter.name: name for name, parameter in state.model.named_parameters()}
    for key, tensor in state.optimizer.state_dict().items():
        parameter = next(name for name in names if key.startswith(name + "_"))
        tensors[f"optimizer/{names[parameter]}/{key.removeprefix(parameter + '_')}"] = tensor
    averages = state.average.values if state.average else {}
    return tensors | {f"average/{name}": tensor for name, tensor in averages.items()}


def _fill(state: State, arrays: dict[str, np.ndarray], path: Path) -> None:
    position = json.loads(arrays.pop("position").tobytes())
    tensors = _tensors(state)
    if {n: list(a.shape) for n, a in arrays.items()} != {n: t.shape for n, t in tensors.items()}:
        raise UserError(
            f"{path}: of another model or optimizer, or of another choice whether to average "
            "(`ema_decay`); delete it to train from the start"
        )
    for name, tensor in tensors.items():
        set_in_place(tensor, arrays[name])
    _set_position(state, position)


def _position_of(state: State) -> dict[str, Any]:
    """All of `state` that is no tensor, as JSON has it."""
    own, scaler = asdict(state.position), dict[str, Any](state.scaler.state_dict())
    if scaler:  # empty where the loss is not scaled
        scaler["scale"] = scaler["scale"].item()
    return {**own, "loss_sum": own["loss_sum"].hex(), "scaler": scaler}


def _set_position(state: State, position: dict[str, Any]) -> None:
    scaler = position.pop("scaler")
    if scaler:
        scaler["scale"] = np.array([scaler["scale"]], np.float32)
        state.scaler.load_state_dict(scaler)
    position["loss_sum"] = float.fromhex(position["loss_sum"])
    position["rejected"] = {name: tuple(pair) for name, pair in position["rejected"].items()}
    state.position = Position(**position)


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a checkpoint without its digest; None when it is damaged."""
    try:
        arrays = load_state(path)
    except UserError:
        return None
    digest = arrays.pop("digest", None)
    # A flipped bit can make a string or a number of an array.
    is_whole = all(isinstance(a, np.ndarray) for a in arrays.values()) and digest == _digest(arrays)
    return arrays if is_whole else None


def _digest(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, value in arrays.items():
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()
