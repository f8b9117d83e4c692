"""Everything a training needs to go on as if it had not stopped, in one atomic file.

It holds its own digest: a training that goes on from altered numbers gives a wrong result silently.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from data_catalog.config import UserError
from ppcls_core.models.weight_files import load_state, save_state
from ppcls_core.models.weights import state_of

FILE = "checkpoint.pdckpt"


@dataclass
class Position:
    """Where a training stands: `step` counts from its start; `history` holds a row an epoch.

    An epoch whose steps are done but which has no row yet is still to be validated.
    """

    step: int = 0
    loss_sum: float = 0.0  # over the steps of the epoch that has no row yet
    history: list[dict[str, float]] = field(default_factory=list)
    rejected: dict[str, tuple[str, str]] = field(default_factory=dict)  # as the loader's Rejections


def save(
    directory: Path, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, at: Position
) -> None:
    """Write weights, optimizer state and position, atomically over the previous checkpoint."""
    state = {f"model/{name}": value for name, value in state_of(model).items()}
    names = {p.name: name for name, p in model.named_parameters()}
    for key, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            parameter = next(n for n in names if key.startswith(n + "_"))
            slot = key.removeprefix(parameter + "_")
            state[f"optimizer/{names[parameter]}/{slot}"] = value.numpy()
    position = json.dumps({**asdict(at), "loss_sum": at.loss_sum.hex()})
    state["position"] = np.frombuffer(position.encode(), np.uint8)
    save_state(directory / FILE, {**state, "digest": _digest(state)})


def restore(
    directory: Path, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> Position:
    """Load the checkpoint of `directory` into model and optimizer; a fresh Position without one.

    The optimizer must make its first step, at which Paddle names its state, under a
    `unique_name.guard` as the saved one did: the names count the optimizers made under the guard.

    Raises:
        UserError: the checkpoint is damaged, or of another model.
    """
    path = directory / FILE
    if not path.exists():
        return Position()
    state = _read(path)
    weights: dict[str, Any] = _part(state, "model/")
    if _shapes(weights) != _shapes(state_of(model)):
        raise UserError(f"{path}: of another model; delete it to train from the start")
    model.set_state_dict(OrderedDict(weights))
    names = {name: p.name for name, p in model.named_parameters()}
    slots = ((*key.rpartition("/"), value) for key, value in _part(state, "optimizer/").items())
    restored: dict[str, Any] = {f"{names[name]}_{slot}": value for name, _, slot, value in slots}
    optimizer.set_state_dict(restored)
    position = json.loads(state["position"].tobytes())
    position["rejected"] = {name: tuple(pair) for name, pair in position["rejected"].items()}
    return Position(**{**position, "loss_sum": float.fromhex(position["loss_sum"])})


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        state = load_state(path)
        whole = state.pop("digest", None) == _digest(state)
    except UserError:
        whole, state = False, {}
    if not whole:
        raise UserError(f"{path}: damaged checkpoint; delete it to train from the start")
    return state


def _digest(state: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, value in state.items():
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in state.items()}


def _part(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
