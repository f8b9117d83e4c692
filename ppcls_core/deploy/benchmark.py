"""What models cost on this machine, beside what was published of them."""

from __future__ import annotations

import csv
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import paddle

from data_catalog.files import write_bytes
from data_catalog.published import PublishedWeights, published_weights
from ppcls_core.data.transforms import Preprocess
from ppcls_core.deploy.engine import has_fast_bf16, open_predictor
from ppcls_core.deploy.export import export
from ppcls_core.models.complexity import count_operations, count_parameters
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import ModelConfig, architecture_of, build_model, check_image_size

WARM_UP, MIN_RUNS, MIN_SECONDS = 3, 5, 1.0


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
    inference_fp32_ms: float
    inference_bf16_ms: float | None
    published_mparams: float | None
    published_gflops: float | None
    published_v100_fp32_ms: float | None
    published_t4_fp16_ms: float | None
    published_sd855_ms: float | None
    errata: str


def resolve_size(name: str, image_size: int | None) -> int:
    """`image_size`, by default the one with which the model was published.

    Raises:
        UserError: unknown name, or an image too small for the network.
    """
    row = _published(name)
    size = image_size or (row.crop if row else 224)
    check_image_size(ModelConfig(name=name), size)
    return size


def measure(name: str, size: int, batch_size: int, threads: int) -> Measured:
    """Measure the model `name` with random weights on images of `size` x `size` pixels."""
    row = _published(name)
    model = build_model(name)
    model.eval()
    images = np.random.default_rng(0).standard_normal((batch_size, 3, size, size), np.float32)
    fp32, bf16 = _inference_latencies(model, images, threads)
    return Measured(
        name=name,
        image_size=size,
        batch_size=batch_size,
        mparams=count_parameters(model) / 1e6,
        gflops=count_operations(model, size) / 1e9,
        training_engine_ms=_dygraph_latency(model, images),
        inference_fp32_ms=fp32,
        inference_bf16_ms=bf16,
        published_mparams=row.mparams if row else None,
        # The table's operations are those of its own input size.
        published_gflops=row.gflops if row and row.crop == size else None,
        published_v100_fp32_ms=row.v100_fp32_ms if row else None,
        published_t4_fp16_ms=row.t4_fp16_ms if row else None,
        published_sd855_ms=row.sd855_ms if row else None,
        errata=row.errata if row else "",
    )


def _published(name: str) -> PublishedWeights | None:
    rows = published_weights()
    return rows.get(name) or rows.get(architecture_of(name))


def _dygraph_latency(model: Network, images: np.ndarray) -> float:
    batch = paddle.to_tensor(images)
    with paddle.no_grad():
        return _median_ms(lambda: model(batch).numpy())


def _inference_latencies(
    model: Network, images: np.ndarray, threads: int
) -> tuple[float, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        export(model, [], Preprocess(size=images.shape[-1]), Path(folder))
        fp32 = open_predictor(Path(folder), "fp32", threads)
        latency = _median_ms(lambda: fp32(images))
        if not has_fast_bf16():
            return latency, None
        bf16 = open_predictor(Path(folder), "bf16", threads)
        return latency, _median_ms(lambda: bf16(images))


def _median_ms(run: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        run()
    times: list[float] = []
    while len(times) < MIN_RUNS or sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def write_measured(path: Path, rows: Iterable[Measured]) -> None:
    """Write the rows to `path` as CSV with a header, atomically; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Measured)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes(path, text.getvalue().encode())
