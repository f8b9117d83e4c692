"""A trained network to Paddle's inference format, with what is needed to use it beside it.

Writes inference.json (program), inference.pdiparams (weights) and inference.yml (class names,
resolution and preprocessing), and checks the exported model against the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import yaml

from data_catalog.files import write_bytes
from ppcls_core.data.transforms import CROP_RATIO, MEAN, STD, normalize
from ppcls_core.engine.evaluator import predict_logits

FILES = ["inference.json", "inference.pdiparams", "inference.yml"]
TOLERANCE = 1e-3  # of the largest logit: the engine fuses convolution and batch-norm


def export(
    model: paddle.nn.Layer, classes: Sequence[str], image_size: int, directory: Path
) -> float:
    """Write FILES into `directory`; the largest deviation of a logit over the largest logit.

    The exported model takes float32 [N, 3, image_size, image_size], normalised as inference.yml
    says.

    Raises:
        RuntimeError: the exported model's logits differ from the network's by more than TOLERANCE.
    """
    model.eval()
    spec = paddle.static.InputSpec([None, 3, image_size, image_size], "float32", name="image")
    with warnings.catch_warnings(), paddle.utils.unique_name.guard():
        warnings.simplefilter("ignore")
        paddle.jit.save(model, str(directory / "inference"), input_spec=[spec])
    sidecar = {
        "classes": list(classes),
        "image_size": image_size,
        "resize_short": round(image_size / CROP_RATIO),
        "mean": list(MEAN),
        "std": list(STD),
        "channels": "RGB",
    }
    text = yaml.safe_dump(sidecar, sort_keys=False, allow_unicode=True)
    write_bytes(directory / "inference.yml", text.encode())
    return _check(model, image_size, directory)


def _check(model: paddle.nn.Layer, image_size: int, directory: Path) -> float:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, image_size, image_size), np.uint8)
    want, got = predict_logits(model, pixels), run_exported(directory, normalize(pixels).numpy())
    deviation = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-12))
    if not deviation <= TOLERANCE:
        raise RuntimeError(
            f"exported logits deviate by {deviation:.2e}, at most {TOLERANCE} allowed"
        )
    return deviation


def run_exported(directory: Path, images: np.ndarray) -> np.ndarray:
    """float32 logits [N, C] of the exported model for normalised images [N, 3, S, S]."""
    from paddle import inference

    program, weights = directory / "inference.json", directory / "inference.pdiparams"
    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    handle.copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
