"""Everything a training needs to go on as if it had not stopped, in one atomic file."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from data_catalog.config import UserError
from ppcls_core.models.weights import load_state, save_state, state_of

FILE = "checkpoint.pdckpt"


@dataclass
class Position:
    """Where a training stands: `step` counts from its start; `history` holds a row an epoch."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps of the running epoch
    history: list[dict[str, float]] = field(default_factory=list)


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
    position = {"step": at.step, "loss_sum": at.loss_sum.hex(), "history": at.history}
    state["position"] = np.frombuffer(json.dumps(position).encode(), np.uint8)
    save_state(directory / FILE, state)


def restore(
    directory: Path, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> Position:
    """Load the checkpoint of `directory` into model and optimizer; a fresh Position without one.

    Raises:
        UserError: the checkpoint is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return Position()
    state = load_state(path)
    weights: dict[str, Any] = _part(state, "model/")
    if weights.keys() != state_of(model).keys() or "position" not in state:
        raise UserError(
            f"{path}: not a checkpoint of this model; delete it to train from the start"
        )
    model.set_state_dict(OrderedDict(weights))
    names = {name: p.name for name, p in model.named_parameters()}
    slots = ((*key.rpartition("/"), value) for key, value in _part(state, "optimizer/").items())
    restored: dict[str, Any] = {f"{names[name]}_{slot}": value for name, _, slot, value in slots}
    optimizer.set_state_dict(restored)
    position = json.loads(state["position"].tobytes())
    return Position(position["step"], float.fromhex(position["loss_sum"]), position["history"])


def _part(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
