"""Weights from one format and naming to another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import paddle

from data_catalog.base.config import UserError
from data_catalog.published import static_names
from ppcls_core.models.networks.acnet import fused_state
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.detection import detection_state
from ppcls_core.models.weights.files import load_state, save_arrays
from ppcls_core.models.weights.state import (
    misfits_error,
    misfits_of,
    of_other_classes,
    with_model_names,
    without_bfloat16,
)

Form = Literal["backbone", "deploy"]
_REMEDY = (
    "give --model the name of the architecture that they are of; without --model every entry keeps "
    "its name, which serves a network narrower or shallower than that of the name"
)


@dataclass(frozen=True)
class Converted:
    """Number of entries that `convert` wrote, and names of those of the source that it left out."""

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
            Its classifier may be for any number of classes. Without it every entry keeps its name.
        form: `backbone` writes a ResNet or MobileNetV3 without its head under PaddleDetection's
            names, `deploy` an ACNet as it is in inference, in float32 if it was in bfloat16.

    Raises:
        UserError: as `load_state` and `save_arrays`; entries of the model are missing, of another
            shape or of another kind of dtype; no names are known for the model; it has no such
            form.
    """
    state = load_state(source)
    if model is None:
        if form:
            raise UserError(f"what a {form} is depends on the model: give its name")
        save_arrays(target, state)
        return Converted(len(state), [])
    with paddle.LazyGuard():  # the names and shapes alone are wanted
        network = build_model(model)
    own = network.state_dict()
    state = with_model_names(state, list(own), network.architecture)
    misfits = misfits_of(own, state, of_other_classes(network.classifiers, own, state))
    if misfits:
        raise misfits_error(source, misfits, _REMEDY)
    left_out = [name for name in state if name not in own]
    entries = {key: state[key] for key in own}
    if form == "backbone":
        entries = detection_state(model, entries)
    elif form == "deploy":
        entries = fused_state({key: without_bfloat16(value) for key, value in entries.items()})
    elif not target.suffix:
        entries = dict(zip(_paddle1_names(network.architecture), entries.values(), strict=True))
    save_arrays(target, entries)
    return Converted(len(entries), left_out)


def _paddle1_names(architecture: str) -> list[str]:
    names = static_names().get(architecture, [])
    if not names:
        raise UserError(f"model {architecture} has no names of Paddle 1.x; write .pdparams instead")
    return names
