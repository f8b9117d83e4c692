"""Parameters, operations and latency of models on this machine, beside the published ones."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from data_catalog.base.config import UserError
from data_catalog.base.files import write_csv
from data_catalog.base.words import counted
from ppcls_core.data.decode import BadImage
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference import onnx
from ppcls_core.inference.export import export
from ppcls_core.inference.inputs import Picture
from ppcls_core.inference.predict import Classifier
from ppcls_core.inference.predictor import EngineOptions, has_fast_bf16, has_gpu, open_predictor
from ppcls_core.inference.quantize import Calibration, quantize
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.complexity import count_operations, count_parameters
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import (
    ModelConfig,
    build_model,
    check_image_size,
    num_classes_of,
    published_of,
)
from ppcls_core.runtime.timer import Run, time_in_turn


def time_stages(
    classifier: Classifier, found: Iterator[Picture], batch_size: int
) -> tuple[int, dict[str, np.ndarray]]:
    """(size of the batch, milliseconds that each stage of predicting it takes, float64 [times]).
    Raises UserError: none of them can be read."""
    batch = list(islice(found, batch_size))
    pixels = _readable(batch, classifier.preprocess)
    logits = classifier.predict(pixels)
    return len(pixels), time_in_turn(
        {
            "preprocess": lambda: _readable(batch, classifier.preprocess),
            "run": lambda: classifier.predict(pixels),
            "postprocess": lambda: classifier.rank(logits),
        }
    )


def _readable(batch: Sequence[Picture], preprocess: Preprocess) -> np.ndarray:
    """uint8 [N, 3, S, S] of those that can be read."""
    pixels: list[np.ndarray] = []
    for picture in batch:
        with suppress(BadImage):
            pixels.append(picture.pixels(preprocess))
    if not pixels:
        raise UserError(
            f"none of the first {counted(len(batch), 'image')} can be read; give others"
        )
    return np.stack(pixels)


@dataclass(frozen=True)
class Measured:
    """One model: latencies are medians in milliseconds a batch; None where the machine cannot."""

    name: str
    image_size: int
    batch_size: int
    mparams: float
    gflops: float
    """10^9 operations an image, a multiplication and an addition being two."""
    training_engine_ms: float
    """Paddle's dygraph in eval mode, fp32."""
    inference_plain_ms: float | None = None
    """Paddle's inference engine in fp32 without oneDNN; of the next three with it, on a CPU."""
    inference_fp32_ms: float | None = None
    inference_bf16_ms: float | None = None
    inference_int8_ms: float | None = None
    onnxruntime_ms: float | None = None
    published_mparams: float | None = None
    published_gflops: float | None = None
    published_v100_fp32_ms: float | None = None
    published_t4_fp16_ms: float | None = None
    published_sd855_ms: float | None = None
    errata: str = ""


def resolve_size(name: str, image_size: int | None) -> int:
    """`image_size`, by default the one with which the model was published. Raises UserError:
    unknown name, or an image too small for the network."""
    row = published_of(name)
    size = image_size or (row.crop if row else 224)
    check_image_size(ModelConfig(name=name), size)
    return size


def measure(name: str, size: int, batch_sizes: Sequence[int], threads: int) -> list[Measured]:
    """Measure the model `name` with random weights on images of `size` x `size` pixels.

    All engines take turns. The int8 model is calibrated on noise: its answers are worth nothing.
    """
    model = build_model(name)
    model.eval()
    mparams, gflops = count_parameters(model) / 1e6, count_operations(model, size) / 1e9
    published: dict[str, Any] = {}
    if row := published_of(name):
        figures = ("mparams", "v100_fp32_ms", "t4_fp16_ms", "sd855_ms")
        published = {f"published_{figure}": getattr(row, figure) for figure in figures}
        published["errata"] = row.errata
        if row.crop == size:  # the table's operations are those of its own input size
            published["published_gflops"] = row.gflops
    with tempfile.TemporaryDirectory() as folder:
        engines = _engines(model, size, Path(folder), threads)
        return [
            Measured(name, size, number, mparams, gflops, **latencies, **published)
            for number in batch_sizes
            for latencies in [_latencies(engines, size, number)]
        ]


def _engines(
    model: Network, size: int, folder: Path, threads: int
) -> dict[str, Callable[[np.ndarray], object]]:
    """The function to logits of float32 [N, 3, size, size]; `folder` is for its files."""
    classes = tuple(map(str, range(num_classes_of(model))))
    sidecar = Sidecar(architecture="any", classes=classes, preprocess=Preprocess(size=size))
    export(model, sidecar, folder)
    options = {"inference_fp32": EngineOptions(threads=threads)}
    if has_fast_bf16():
        options["inference_bf16"] = EngineOptions(precision="bf16", threads=threads)
    engines: dict[str, Callable[[np.ndarray], object]] = {"training_engine": _dygraph(model)}
    if not has_gpu():
        options["inference_plain"] = EngineOptions(threads=threads, onednn=False)
        with suppress(UserError):  # it has no form that the tool can quantise
            noise = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), np.uint8)
            quantize(model, Calibration([noise]), folder)
            options["inference_int8"] = EngineOptions(precision="int8", threads=threads)
        with suppress(UserError):  # not installed, or not convertible
            engines["onnxruntime"] = onnx.open_session(onnx.convert(folder), threads)
    return engines | {name: open_predictor(folder, chosen) for name, chosen in options.items()}


def _dygraph(model: Network) -> Callable[[np.ndarray], object]:
    def run(images: np.ndarray) -> object:
        with paddle.no_grad():
            return model(paddle.to_tensor(images)).numpy()

    return run


def _latencies(
    engines: Mapping[str, Callable[[np.ndarray], object]], size: int, batch_size: int
) -> dict[str, float]:
    """Median milliseconds of a batch by the name of Measured's field for the engine."""
    images = np.random.default_rng(0).standard_normal((batch_size, 3, size, size), np.float32)
    runs: dict[str, Run] = {f"{name}_ms": partial(run, images) for name, run in engines.items()}
    return {name: float(np.median(times)) for name, times in time_in_turn(runs).items()}


def write_measured(path: Path, rows: Iterable[Measured]) -> None:
    """Write the rows to `path` as CSV with a header, atomically; what is not known is empty."""
    write_csv(path, [field.name for field in fields(Measured)], (asdict(row) for row in rows))
