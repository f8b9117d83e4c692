"""What does int8 gain, and what does it cost? Size, latency, and how far the answers move.

    OMP_NUM_THREADS=1 python benchmarks/quantize.py --models ResNet50_vd MobileNetV3_small_x1_0

fp32, bf16 and int8 on Paddle's inference engine, in turns, medians in ms a batch of images of 224
pixels. The weights are random, so no accuracy is told (`ppcls quantize` does, of a trained model);
`moved` is the mean difference of the logits from fp32's over their standard deviation.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # read once, by Paddle
os.environ.setdefault("GLOG_minloglevel", "2")

import numpy as np
from rich.console import Console
from rich.table import Table

from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference.export import export
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.predictor import EngineOptions
from ppcls_core.inference.quantize import Calibration, quantize
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.inference.variants import Variant, latencies, variants_of
from ppcls_core.models.registry import build_model

THREADS = int(os.environ["OMP_NUM_THREADS"])
SIZE, NUM_IMAGES, BATCH_SIZES = 224, 8, (1, 8)


def blots(num: int) -> np.ndarray:
    """uint8 [num, 3, SIZE, SIZE] of coloured squares: a network tells them apart, unlike noise."""
    side = SIZE // 16
    coarse = np.random.default_rng(0).integers(0, 256, (num, 3, side, side), np.uint8)
    return coarse.repeat(16, 2).repeat(16, 3)


def prepare(name: str, pixels: np.ndarray, folder: Path) -> list[Variant]:
    """The model `name` with random weights and the images' statistics, exported and quantised."""
    model = build_model(name)
    model.train()
    for _ in range(5):
        predict_logits(model, pixels)
    classes = tuple(map(str, range(1000)))
    export(model, Sidecar(architecture=name, classes=classes, preprocess=Preprocess()), folder)
    quantize(model, Calibration([pixels]), folder)
    return variants_of(folder, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    models = ["ResNet50_vd", "MobileNetV3_small_x1_0"]
    parser.add_argument("--models", nargs="+", default=models)
    pixels = blots(NUM_IMAGES)
    table = Table(box=None, pad_edge=False)
    for title in ("model", "", "MB", *(f"ms of {size}" for size in BATCH_SIZES), "moved"):
        table.add_column(title, justify="left" if title in ("model", "") else "right")
    for name in parser.parse_args().models:
        with tempfile.TemporaryDirectory() as folder:
            variants = prepare(name, pixels, Path(folder))
            predict = [
                Exported(x.directory).on_engine(
                    EngineOptions(precision=x.precision, threads=THREADS, device="cpu")
                )
                for x in variants
            ]
            logits = [run(pixels) for run in predict]
            times = np.array([latencies(predict, SIZE, size) for size in BATCH_SIZES])
            for variant, taken, got in zip(variants, times.T, logits, strict=True):
                moved = np.abs(got - logits[0]).mean() / logits[0].std()
                cells = (f"{variant.num_bytes / 1e6:.2f}", *(f"{x:.2f}" for x in taken))
                table.add_row(name, variant.name, *cells, f"{moved:.3f}")
    Console().print(table)
    load = os.getloadavg()[0]
    print(f"{THREADS} threads; load at the end {load:.1f}")


if __name__ == "__main__":
    main()
