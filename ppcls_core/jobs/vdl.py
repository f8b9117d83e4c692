"""Scalars of a training for VisualDL, which is installed apart."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.base.config import UserError

if TYPE_CHECKING:
    from ppcls_core.engine.trainer import StepReport


def scalars_to(folder: Path) -> Callable[[StepReport], None]:
    """A function that writes loss, learning rate and accuracies of each step to `folder`.

    Raises:
        UserError: VisualDL is not installed.
    """
    try:
        visualdl = importlib.import_module("visualdl")
    except ImportError as error:
        raise UserError("--vdl_dir needs VisualDL: pip install visualdl") from error
    writer = visualdl.LogWriter(str(folder))

    def write(report: StepReport) -> None:
        for name in ("loss", "lr", "top1", "top5"):
            writer.add_scalar(f"train/{name}", getattr(report, name), report.step)

    return write
