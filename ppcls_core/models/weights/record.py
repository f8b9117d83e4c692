"""The record that a training leaves beside its weights: its settings, and digests of its inputs."""

from pathlib import Path
from typing import Any

from data_catalog.base.files import read_json
from data_catalog.base.words import counted

# In the folder of a training: its settings and, under INPUTS, digests of its images and weights.
SETTINGS, INPUTS = "job.json", "inputs"


def record_of(weights: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record of the training that left `weights` (as in `find_weights`), if one lies beside
    them: its path and its content."""
    folder = weights.parent
    for place in (weights, folder, folder.parent if folder.name.isdigit() else folder):
        data = read_json(place / SETTINGS)
        if isinstance(data, dict) and INPUTS in data:
            return place / SETTINGS, data
    return None


def said_of(weights: Path) -> str:
    """A remark on the model whose training left `weights`, as its record has it; "" without one."""
    found = record_of(weights)
    if found is None or not isinstance(model := found[1].get("model"), dict):
        return ""
    spec = "".join(f", {key} {value}" for key, value in (model.get("spec") or {}).items())
    num = found[1].get("num_classes")
    classes = f" with {counted(num, 'class')}" if isinstance(num, int) else ""
    return f"; {found[0]} says that they are of {model.get('name')}{spec}{classes}"
