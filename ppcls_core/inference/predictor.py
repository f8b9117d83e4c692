"""Paddle's inference engine on an exported model."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import inference
from paddle.base import core
from pydantic import Field

from data_catalog.base.config import Config, UserError
from ppcls_core.inference.int8 import OPERATORS, int8_files, quiet
from ppcls_core.inference.sidecar import PROGRAM, WEIGHTS
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.paddle import ERRORS, reason_of

Precision = Literal["fp32", "bf16", "fp16", "int8"]
GPU_MEMORY_MB = 256  # taken at the start; the pool grows with need
# Rewritings of Paddle 3.3.1 that fail, by an operation of the program that is a sign of it.
FAILING_PASSES = {
    b"leaky_relu": "conv_activation_onednn_fuse_pass",  # CSPResNet50: a segmentation fault
    b"nearest_interp": "onednn_placement_pass",  # HRNet: oneDNN's form of it cannot be run
    b"add_n": "onednn_placement_pass",  # ResNeSt: cannot be run for more than one image
}
# On a GPU these give operations that have kernels for fp32 and fp16 alone; in bf16 they would stay
# in fp32, between casts.
NOT_IN_BF16 = ("conv2d_add_act_fuse_pass", "conv2d_add_fuse_pass")
# The operations of `normalize`, which no network has: in 16 bits they would round the pixels.
NORMALIZING = {"scale", "subtract", "divide"}


class EngineOptions(Config):
    """How the engine runs a model."""

    precision: Precision = "fp32"
    """Number format of convolutions and linear layers; logits are float32. int8 needs `quantize`
    before."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the CPU."""
    device: Literal["cpu", "gpu"] | None = None
    """None: a GPU where there is one."""
    onednn: bool = True
    """Intel's kernels on the CPU, which fuse and are several times as fast."""
    ir_optim: bool = True
    """The engine's rewriting of the program."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return has_gpu() if self.device is None else self.device == "gpu"

    def check(self) -> None:
        """Raise UserError if this machine cannot do it."""
        if self.on_gpu and not has_gpu():
            raise UserError("device gpu: Paddle sees no GPU here; leave it out or take cpu")
        if self.precision == "fp16" and not self.on_gpu:
            raise UserError("precision fp16: for GPUs alone; take bf16 or fp32 on a CPU")
        if self.precision == "bf16" and not has_fast_bf16(self.on_gpu):
            raise UserError("precision bf16: this device does not compute in it; take fp32")
        if self.precision == "int8" and self.on_gpu:
            raise UserError("precision int8: computed on the CPU alone; take device cpu, or fp16")
        if self.precision in ("bf16", "int8") and not self.on_gpu and not self.onednn:
            raise UserError(
                f"precision {self.precision}: on a CPU it is oneDNN's; leave it on or take fp32"
            )


def has_gpu() -> bool:
    """Whether Paddle computes on a GPU here."""
    return num_gpus() > 0


def has_fast_bf16(on_gpu: bool | None = None) -> bool:
    """Whether the device computes in bfloat16 itself: AVX512_BF16, AMX, or a GPU from Ampere on.

    The device is the one that Paddle takes here, unless `on_gpu` says which.
    """
    if has_gpu() if on_gpu is None else on_gpu:
        return paddle.amp.is_bfloat16_supported()
    return core.supports_bfloat16_fast_performance()


def fast_precisions() -> tuple[Precision, ...]:
    """Formats of 16 bits that are faster than fp32 on the device that Paddle takes here, the
    fastest first.

    On a GPU that is fp16: every card that Paddle's builds are for has it, and the engine has all
    its kernels in it.
    """
    bf16: tuple[Precision, ...] = ("bf16",) if has_fast_bf16() else ()
    return ("fp16", *bf16) if has_gpu() else bf16


def open_predictor(directory: Path, options: EngineOptions) -> Callable[[np.ndarray], np.ndarray]:
    """The program and the weights in `directory` as a function of a batch, to float32 [N, C].

    It takes what the program takes. Once it has run, trainings of this process give other bits
    than before, because the engine sets the number of threads of the process.

    Raises UserError: the machine cannot do what `options` say, or Paddle cannot read the files;
    when called, that Paddle has no form of an operation in this precision.
    """
    options.check()
    is_int8 = options.precision == "int8"
    files = int8_files(directory) if is_int8 else (directory / PROGRAM, directory / WEIGHTS)
    config = inference.Config(*map(str, files))
    config.disable_glog_info()
    config.switch_ir_optim(options.ir_optim)
    config.set_cpu_math_library_num_threads(options.threads)
    (_use_gpu if options.on_gpu else _use_cpu)(config, options)
    program = b"" if is_int8 else files[0].read_bytes()
    for operation, rewriting in FAILING_PASSES.items():
        if operation in program:
            config.delete_pass(rewriting)
    try:
        with quiet() if is_int8 else nullcontext():
            predictor = inference.create_predictor(config)
    except ERRORS as error:
        reason = reason_of(error)
        raise UserError(f"{directory}: Paddle cannot open it ({reason}); export it again") from None
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])

    def predict(images: np.ndarray) -> np.ndarray:
        try:
            source.copy_from_cpu(images)
            predictor.run()
            return target.copy_to_cpu()
        except ERRORS as error:  # as where oneDNN has no form of an operation
            remedy = "fewer images at a time" if options.on_gpu else "go without oneDNN"
            raise UserError(
                f"{directory}: Paddle cannot run it in {options.precision} ({reason_of(error)}); "
                f"take another precision, or {remedy}"
            ) from None

    return predict


def _use_cpu(config: inference.Config, options: EngineOptions) -> None:
    if not options.onednn:
        return config.disable_mkldnn()  # it is on by default
    config.enable_mkldnn()
    if options.precision == "bf16":
        config.enable_mkldnn_bfloat16()
    if options.precision == "int8":
        config.enable_mkldnn_int8(set(OPERATORS))
    return None


def _use_gpu(config: inference.Config, options: EngineOptions) -> None:
    kinds = inference.PrecisionType
    kind = {"fp32": kinds.Float32, "bf16": kinds.Bfloat16, "fp16": kinds.Half}[options.precision]
    config.enable_use_gpu(GPU_MEMORY_MB, 0, kind)
    config.exp_disable_mixed_precision_ops(NORMALIZING)
    for rewriting in NOT_IN_BF16 if options.precision == "bf16" else ():
        config.delete_pass(rewriting)
