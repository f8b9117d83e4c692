"""Paddle's inference engine on an exported model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import inference
from paddle.base import core

Precision = Literal["fp32", "bf16"]
GPU_MEMORY_MB = 256  # taken at the start; the pool grows with need


def has_gpu() -> bool:
    """Whether Paddle computes on a GPU here."""
    return paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


def has_fast_bf16() -> bool:
    """Whether the device computes in bfloat16 itself: AVX512_BF16, AMX, or a GPU from Ampere on."""
    if has_gpu():
        return paddle.amp.is_bfloat16_supported()
    return core.supports_bfloat16_fast_performance()


def open_predictor(
    directory: Path, precision: Precision, threads: int, device: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """The model that `export` wrote to `directory`: float32 [N, 3, S, S] to logits [N, classes].

    Where there are GPUs it runs on GPU `device`, else on the CPU through oneDNN with `threads`
    threads; bf16 computes convolutions and linear layers in bfloat16, which is fast where the
    processor has instructions for it. Once one has run, trainings of this process give other bits
    than before, because the engine sets the number of threads of the process.
    """
    config = inference.Config(
        str(directory / "inference.json"), str(directory / "inference.pdiparams")
    )
    config.disable_glog_info()
    if has_gpu():
        kind = inference.PrecisionType
        config.enable_use_gpu(
            GPU_MEMORY_MB, device, kind.Bfloat16 if precision == "bf16" else kind.Float32
        )
    else:
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads)
        if precision == "bf16":
            config.enable_mkldnn_bfloat16()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])

    def predict(images: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(images)
        predictor.run()
        return target.copy_to_cpu()

    return predict
