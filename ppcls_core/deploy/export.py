"""A trained network to Paddle's inference format, with what is needed to use it beside it.

Writes inference.json (program), inference.pdiparams (weights) and inference.yml (class names,
resolution and preprocessing), and checks the exported model against the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle.base import framework

from data_catalog.files import write_bytes
from ppcls_core.data.transforms import CROP_RATIO, MEAN, STD, Preprocess
from ppcls_core.engine.evaluator import predict_logits

FILES = ["inference.json", "inference.pdiparams", "inference.yml"]
TOLERANCE = 1e-4  # of the largest logit


def export(
    model: paddle.nn.Layer, classes: Sequence[str], preprocess: Preprocess, directory: Path
) -> float:
    """Write FILES into `directory`; the largest deviation of a logit over the largest logit.

    The exported model takes float32 [N, 3, S, S] of images that `preprocess` gives, normalised
    as inference.yml says.

    Raises:
        RuntimeError: the exported model's logits differ from the network's by more than TOLERANCE.
    """
    model.eval()
    size, short = preprocess.size, preprocess.short
    spec = paddle.static.InputSpec([None, 3, size, size], "float32", name="image")
    with warnings.catch_warnings(), _fresh_names():
        warnings.simplefilter("ignore")
        paddle.jit.save(model, str(directory / "inference"), input_spec=[spec])
    sidecar = {
        "classes": list(classes),
        "image_size": size,
        "resize_short": short or round(size / CROP_RATIO),
        "mean": list(MEAN),
        "std": list(STD),
        "channels": "RGB",
    }
    text = yaml.safe_dump(sidecar, sort_keys=False, allow_unicode=True)
    write_bytes(directory / "inference.yml", text.encode())
    return _check(model, size, directory)


@contextmanager
def _fresh_names() -> Iterator[None]:
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


def _check(model: paddle.nn.Layer, image_size: int, directory: Path) -> float:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, image_size, image_size), np.uint8)
    want = predict_logits(model, pixels)
    # Not the inference engine: running it once leaves this process with another number of
    # threads, and a later training with other bits.
    got = predict_logits(paddle.jit.load(str(directory / "inference")), pixels)
    deviation = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-12))
    if not deviation <= TOLERANCE:
        raise RuntimeError(f"exported logits deviate by {deviation:.2e}, over {TOLERANCE}")
    return deviation
