"""The same model in several precisions, side by side: accuracy, size on disk, latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_catalog.images.columns import Images
from ppcls_core.engine.evaluator import EvalData, evaluate_each
from ppcls_core.inference import int8, sidecar
from ppcls_core.inference.exported import Exported, Logits
from ppcls_core.inference.predictor import EngineOptions, Precision, has_fast_bf16
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.timer import Repeats, time_in_turn

REPEATS = Repeats(warmup=5, rounds=40, seconds=0)


@dataclass(frozen=True)
class Variant:
    """An exported model, computed in `precision` by the inference engine."""

    name: str
    directory: Path
    precision: Precision

    @property
    def num_bytes(self) -> int:
        """Size of program and weights on disk; bf16 is made from fp32 when it is loaded."""
        part = int8 if self.precision == "int8" else sidecar
        return sum((self.directory / name).stat().st_size for name in (part.PROGRAM, part.WEIGHTS))


@dataclass(frozen=True)
class Compared:
    """A row of the table; accuracies are None where there are no labelled images."""

    variant: str
    top1: float | None
    top5: float | None
    num_images: int
    mbytes: float
    latency_ms: float
    """Median of a single image of uint8 pixels in memory."""


def variants_of(directory: Path, aware: Path | None) -> list[Variant]:
    """Those of the quantised model in `directory`; `aware` has that of the training with rounding.

    bf16 is left out where the processor does not compute in it.
    """
    found = [Variant("fp32", directory, "fp32")]
    if has_fast_bf16(on_gpu=False):
        found.append(Variant("bf16", directory, "bf16"))
    found.append(Variant("int8", directory, "int8"))
    if aware:
        found.append(Variant("int8, trained", aware, "int8"))
    return found


def compare(variants: Sequence[Variant], images: Images | None, threads: int) -> list[Compared]:
    """A row for each variant, on the CPU with `threads` threads. Raises UserError: no image, or too
    few, can be read."""
    opened = [Exported(x.directory) for x in variants]
    options = [
        EngineOptions(precision=x.precision, threads=threads, device="cpu") for x in variants
    ]
    predict = [x.on_engine(option) for x, option in zip(opened, options, strict=True)]
    preprocess = opened[0].sidecar.preprocess
    if images:
        hits = evaluate_each(predict, EvalData(images, preprocess, threads), SilentMonitor())
    else:
        hits = [None] * len(variants)
    times = latencies(predict, preprocess.size)
    return [
        Compared(
            variant=variant.name,
            top1=found and found.top1,
            top5=found and found.topk,
            num_images=found.num_images if found else 0,
            mbytes=variant.num_bytes / 1e6,
            latency_ms=latency,
        )
        for variant, found, latency in zip(variants, hits, times, strict=True)
    ]


def latencies(predict: Sequence[Logits], size: int, batch_size: int = 1) -> list[float]:
    """Median milliseconds of a batch, of each; taken in turns, as a machine's speed varies."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 3, size, size), np.uint8)
    runs = {str(number): partial(logits, pixels) for number, logits in enumerate(predict)}
    return [float(np.median(times)) for times in time_in_turn(runs, REPEATS).values()]
