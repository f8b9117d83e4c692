"""A teacher on the inference engine, on uint8 pixels, in bfloat16 where its answers allow that.

Once an engine has run, trainings of the process give other bits than before: run it in a process
of its own.
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from data_catalog.base.config import Config, UserError
from ppcls_core.inference.predictor import EngineOptions, Precision, has_fast_bf16, open_predictor
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.models.networks.layers import Network, normalize
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.models.weights.state import load_weights

MIN_TOP1, MAX_KL = 0.98, 0.001  # of bf16 with fp32
Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] to float32 [N, C] logits


@dataclass(frozen=True)
class Agreement:
    """How two engines agree on images: share of equal classes, mean KL(first || second)."""

    top1: float
    kl: float

    @property
    def is_close(self) -> bool:
        """Whether the second may take the first one's place."""
        return self.top1 >= MIN_TOP1 and self.kl <= MAX_KL


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """The Agreement of two float [N, C] logits of the same images."""
    log_p, log_q = log_softmax(first), log_softmax(second)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    return Agreement(float((log_p.argmax(1) == log_q.argmax(1)).mean()), float(kl))


class Teacher(Config):
    """A teacher as any process can open it."""

    model: ModelConfig
    num_classes: int
    weights: Path
    image_size: int

    def network(self) -> Network:
        """In eval mode. Raises UserError if the weights are not of this model and classes."""
        name, spec = self.model.name, self.model.spec
        network = build_model(name, num_classes=self.num_classes, spec=spec)
        load_weights(network, self.weights)
        network.eval()
        return network

    def predictor(self, precision: Precision, threads: int, device: int = 0) -> Predict:
        """On the inference engine, with `threads` threads of the CPU or on GPU `device`."""
        return on_engine(self.network(), self.image_size, precision, (threads, device))


def on_engine(
    model: paddle.nn.Layer, size: int, precision: Precision, place: tuple[int, int]
) -> Predict:
    """`model` in eval mode on images of `size` pixels; `place` is (threads, number of the GPU)."""
    model.eval()
    spec = paddle.static.InputSpec([None, 3, size, size], "uint8", name="image")
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paddle.jit.save(_OfPixels(model), f"{folder}/inference", input_spec=[spec])
        options = EngineOptions(precision=precision, threads=place[0], gpu=place[1])
        return open_predictor(Path(folder), options)


def fastest_precision(
    open_in: Callable[[Precision], Predict], pixels: np.ndarray
) -> tuple[Precision, Agreement | UserError | None]:
    """bf16 where the device computes in it and agrees with fp32 on uint8 `pixels`, else fp32.

    With it how they agree, or with what error the engine refuses bf16 (None: nothing was tried).
    """
    if not has_fast_bf16() or not len(pixels):
        return "fp32", None
    fp32 = _in_batches(open_in("fp32"), pixels)
    try:
        found = agreement(fp32, _in_batches(open_in("bf16"), pixels))
    except UserError as refused:
        return "fp32", refused
    return ("bf16" if found.is_close else "fp32"), found


class _OfPixels(paddle.nn.Layer):
    """Normalises on the device, where it costs nothing: in NumPy it is 1 ms an image."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: paddle.Tensor) -> paddle.Tensor:
        return self.model(normalize(pixels, self.model))


def _in_batches(predict: Predict, pixels: np.ndarray, size: int = 32) -> np.ndarray:
    parts = [predict(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    return np.concatenate(parts)
