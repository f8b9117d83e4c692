"""A trained network to Paddle's inference format, with what is needed to use it beside it.

Writes inference.json (program), inference.pdiparams (weights) and sidecar.json (class names and
preprocessing), and checks the exported model against the network.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle.base import framework

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.exported import Exported, Logits
from ppcls_core.inference.sidecar import PROGRAM, Sidecar
from ppcls_core.models.registry import num_classes_of
from ppcls_core.runtime.gpu import exact_float32

if TYPE_CHECKING:
    from ppcls_core.models.networks.layers import Network

TOLERANCE = 1e-4  # of the largest logit
INPUT = "image"  # the name of the program's input


def export(model: Network, sidecar: Sidecar, directory: Path) -> float:
    """Write the FILES of `exported` to `directory`; the largest deviation over the largest logit.

    The exported program takes float32 [N, 3, S, S], images as `sidecar` prepares them.

    Raises:
        UserError: `sidecar` names another number of classes.
        RuntimeError: the exported model's logits differ from the network's by more than TOLERANCE.
    """
    check_classes(model, sidecar)
    model.eval()
    save_program(model, sidecar.preprocess.size, directory / Path(PROGRAM).stem)
    sidecar.write(directory)
    # Not the inference engine: running it once leaves this process with another number of
    # threads, and a later training with other bits.
    found = check(Exported(directory).on_training_engine(), model, sidecar.preprocess.size)
    if not found <= TOLERANCE:
        raise RuntimeError(f"exported logits deviate by {found:.2e}, over {TOLERANCE}")
    return found


def check_classes(model: Network, sidecar: Sidecar) -> None:
    """Raise UserError if `sidecar` does not name as many classes as `model` has."""
    if num_classes_of(model) != len(sidecar.classes):
        raise UserError(
            f"got {counted(len(sidecar.classes), 'class name')}, but the model has "
            f"{counted(num_classes_of(model), 'class')}; correct the names"
        )


def save_program(model: paddle.nn.Layer, size: int, stem: Path) -> None:
    """Write program and weights, `stem` with Paddle's suffixes; equal models give equal bytes."""
    spec = paddle.static.InputSpec([None, 3, size, size], "float32", name=INPUT)
    with warnings.catch_warnings(), _fresh_names():
        warnings.simplefilter("ignore")
        paddle.jit.save(model, str(stem), input_spec=[spec])


def check(predict: Logits, model: paddle.nn.Layer, size: int) -> float:
    """`deviation` of `predict` from `model` in eval mode, on two random images."""
    pixels = random_pixels(size)
    with exact_float32():
        return deviation(predict(pixels), predict_logits(model, pixels))


def random_pixels(size: int) -> np.ndarray:
    """uint8 [2, 3, size, size], the same at each call."""
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size), np.uint8)


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference of two [N, C] logits, over the largest of `want`; NaN if one is NaN."""
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-12))


@contextmanager
def _fresh_names() -> Generator[None]:
    """Name the program's parts as in a new process, so that equal models give equal bytes.

    The structure names are a global counter of Paddle that `unique_name.guard` leaves alone.
    """
    struct = framework._name_struct
    framework._name_struct = framework.NameStruct()
    try:
        with paddle.utils.unique_name.guard():
            yield
    finally:
        framework._name_struct = struct
