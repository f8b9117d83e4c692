"""GPUs as processes share them. Nothing here needs one: without a GPU each function does nothing.

Paddle is imported when a function is called.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name

VISIBLE = "CUDA_VISIBLE_DEVICES"
# From Ampere on NVIDIA's libraries round float32 to 10 bits of mantissa (TF32) unless this is 0.
_EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}
_DRIVER = Path("/proc/driver/nvidia/gpus")


def num_gpus() -> int:
    """Number of GPUs that Paddle can compute on in this process."""
    return resolve_name("paddle.device.cuda:device_count")()


def own_gpu(number: int) -> dict[str, str]:
    """Variables of a child process that shall have GPU `number`, modulo how many there are.

    It sees no other GPU, whose memory it would take some of, and its own is number 0 there. float32
    is not rounded to TF32 in it. Empty without GPUs.
    """
    num = num_gpus()
    if not num:
        return {}
    listed = os.environ.get(VISIBLE)
    visible = listed.split(",") if listed else [str(one) for one in range(num)]
    # Paddle's own choice among the visible ones, where a launcher has made one, is of another list.
    return {VISIBLE: visible[number % num].strip(), "FLAGS_selected_gpus": "0", **_EXACT}


def release_memory() -> None:
    """Give back the GPU memory that Paddle keeps for later, so that other processes can have it."""
    if num_gpus():
        resolve_name("paddle.device.cuda:empty_cache")()


@contextmanager
def exact_float32() -> Iterator[None]:
    """The block computes float32 without TF32 (see above), which is too coarse for a check."""
    core = resolve_name("paddle.base:core")
    before = core.get_cublas_switch(), core.get_cudnn_switch()
    core.set_cublas_switch(False)
    core.set_cudnn_switch(False)
    try:
        yield
    finally:
        core.set_cublas_switch(before[0])
        core.set_cudnn_switch(before[1])


def gpu_names() -> list[str]:
    """Names of this machine's NVIDIA GPUs, as their driver says; needs no Paddle."""
    found = [path.read_text() for path in sorted(_DRIVER.glob("*/information"))]
    lines = (line.partition(":") for text in found for line in text.splitlines())
    return [value.strip() for key, _, value in lines if key == "Model"]
