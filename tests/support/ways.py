"""What all ways to predict make of the same photographs, by a process of its own.

Running Paddle's inference engine leaves a process with another number of threads, and its later
trainings with other bits; and ONNX's converter prints.

    python tests/support/ways.py FOLDER FAMILY...     writes FOLDER/deviations.json
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import paddle

from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference import onnx
from ppcls_core.inference.export import deviation, export
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.inputs import given_images
from ppcls_core.inference.predictor import EngineOptions
from ppcls_core.jobs.job import Job
from ppcls_core.jobs.trained import Trained
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from tests.ppcls_core.models.families.test_networks import TINY
from tests.support.images import write_jpeg

SIZE = 96
SIZES = {"AlexNet": 224, "VGG11": 224}  # their pooling to a fixed size has no ONNX below
CLASSES = ("one", "two", "three", "four", "five")


def random_network(name: str) -> Network:
    """Tiny, with weights that let the signal through and statistics as after a training."""
    paddle.seed(0)
    model = build_model(name, num_classes=len(CLASSES), spec=TINY[name])
    rng = np.random.default_rng(0)
    for entry, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            scale = np.sqrt(2 / np.prod(tensor.shape[1:]))
            tensor.set_value(rng.normal(0, scale, tensor.shape).astype(np.float32))
        if entry.endswith("_mean"):
            tensor.set_value(rng.normal(0, 0.1, tensor.shape).astype(np.float32))
        if entry.endswith("_variance"):
            tensor.set_value(rng.uniform(0.5, 2, tensor.shape).astype(np.float32))
    return model


def deviations(name: str, folder: Path) -> dict[str, float]:
    """Of each way's logits from those of `ppcls infer`, over the largest."""
    folder.mkdir()
    save_state(folder / "weights.pdparams", state_of(random_network(name)))
    trained = Trained(
        job=Job(
            model=ModelConfig(name=name, spec=TINY[name]),
            preprocess=Preprocess(size=SIZES.get(name, SIZE)),
        ),
        weights=folder / "weights.pdparams",
        classes=CLASSES,
    )
    network = trained.network()
    export(network, trained.sidecar(), folder / "exported")
    exported = Exported(folder / "exported")
    onnx.write(exported.directory, exported.directory / onnx.ONNX)
    for seed in (0, 1):
        write_jpeg(folder / f"{seed}.jpg", seed, 150, 200)
    pixels = np.stack([x.pixels(exported.sidecar.preprocess) for x in given_images([str(folder)])])
    want = predict_logits(network, pixels)
    assert (want[0] != want[1]).any()
    ways = {
        "py-infer": exported.on_training_engine(),
        "predict": exported.on_engine(EngineOptions()),
        "predict --no-onednn": exported.on_engine(EngineOptions(onednn=False)),
        "onnxruntime": onnx.open_onnx(exported, 1),
    }
    return {way: deviation(predict(pixels), want) for way, predict in ways.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root = Path(sys.argv[1])
    found = {name: deviations(name, root / name) for name in sys.argv[2:]}
    (root / "deviations.json").write_text(json.dumps(found))
