"""Class names of a model and of data, compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_catalog.base.config import UserError
from ppcls_core.inference.sidecar import SIDECAR, read_sidecar


def check_class_names(weights: Path, classes: Sequence[str]) -> None:
    """Raise UserError if the sidecar beside the file `weights` names other classes than `classes`.

    Names that are the classes' numbers say nothing and are not compared.
    """
    path = weights.parent / SIDECAR
    if not path.is_file():
        return
    theirs, ours = read_sidecar(path).classes, tuple(classes)
    numbers = tuple(map(str, range(len(ours))))
    if len(theirs) != len(ours):
        raise UserError(
            f"{weights} is for {len(theirs)} classes ({path}), the data set has {len(ours)}: give "
            "the weights of a model of these classes"
        )
    if numbers[: len(theirs)] in (theirs, ours):
        return
    for label, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if one != other:
            raise UserError(
                f"class {label} is '{one}' in {path}, which lies beside the weights, and '{other}' "
                "in the data set: give the weights of a model of these classes, in this order"
            )
