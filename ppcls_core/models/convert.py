"""Weights from one format and naming to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paddle

from data_catalog.config import UserError
from data_catalog.published import static_names
from ppcls_core.models.acnet import fused_state
from ppcls_core.models.detection import detection_state
from ppcls_core.models.registry import architecture_of, build_model
from ppcls_core.models.weight_files import load_state, save_arrays
from ppcls_core.models.weights import from_static_names

Form = Literal["backbone", "deploy"]


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote, and what of the source it left out."""

    num_entries: int
    left_out: list[str]


def convert(
    source: Path, target: Path, model: str | None = None, form: Form | None = None
) -> Converted:
    """Write the weights `source` as `target`, whose suffix names the format, as in `save_arrays`.

    Args:
        source: as in `load_state`.
        target: `.pdparams`, `.safetensors`, or without a suffix a folder of Paddle 1.x.
        model: whose weights they are. Its entries alone are written, and they are renamed: from the
            names that Paddle 1.x gave the variables, and to those when `target` is a folder.
            Without it every entry keeps its name.
        form: `backbone` writes a ResNet without classifier under PaddleDetection's names, `deploy`
            an ACNet as it is in inference.

    Raises:
        UserError: as `load_state` and `save_arrays`; an entry of the model is missing; no names are
            known for the model; it has no such form.
    """
    state = load_state(source)
    if model is None:
        if form:
            raise UserError(f"what a {form} is depends on the model: give its name")
        save_arrays(target, state)
        return Converted(len(state), [])
    keys = _keys(model)
    static = static_names().get(architecture_of(model), [])
    state = from_static_names(state, keys, static)
    _check_complete(source, model, keys, state)
    left_out = [name for name in state if name not in keys]
    entries = {key: state[key] for key in keys}
    if form == "backbone":
        entries = detection_state(model, entries)
    elif form == "deploy":
        entries = fused_state(entries)
    elif not target.suffix:
        entries = dict(zip(_known(model, static), entries.values(), strict=True))
    save_arrays(target, entries)
    return Converted(len(entries), left_out)


def _keys(model: str) -> list[str]:
    with paddle.LazyGuard():  # the names alone are wanted
        return list(build_model(model).state_dict())


def _check_complete(source: Path, model: str, keys: list[str], state: Mapping[str, Any]) -> None:
    missing = [key for key in keys if key not in state]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of the {len(keys)} entries of {model} are missing, such as "
            f"{', '.join(missing[:3])}; it holds {', '.join(list(state)[:3])} and so on: check the "
            "model's name"
        )


def _known(model: str, static: list[str]) -> list[str]:
    if not static:
        raise UserError(f"model {model} has no names of Paddle 1.x; write .pdparams instead")
    return static
