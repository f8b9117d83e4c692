"""What concerns GPUs and can be tried without one."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_core.inference import export
from ppcls_core.runtime import gpu

core = paddle.base.core


@pytest.fixture
def tf32() -> object:
    """TF32 as on a GPU of Ampere or later."""
    before = core.get_cublas_switch(), core.get_cudnn_switch()
    core.set_cublas_switch(True)
    core.set_cudnn_switch(True)
    yield
    core.set_cublas_switch(before[0])
    core.set_cudnn_switch(before[1])


def test_a_check_computes_without_tf32_and_what_follows_with_it(tf32: object) -> None:
    seen: list[tuple[bool, bool]] = []

    def predict(pixels: np.ndarray) -> np.ndarray:
        seen.append((core.get_cublas_switch(), core.get_cudnn_switch()))
        if len(seen) == 2:
            raise KeyError("a defect")
        return np.ones((2, 3), np.float32)

    class Model(paddle.nn.Layer):
        def forward(self, images: paddle.Tensor) -> paddle.Tensor:
            return paddle.ones([2, 3])

    assert export.check(predict, Model(), 8) == 0
    with pytest.raises(KeyError):
        export.check(predict, Model(), 8)
    assert seen == 2 * [(False, False)]
    assert (core.get_cublas_switch(), core.get_cudnn_switch()) == (True, True)


@pytest.mark.parametrize(
    ("visible", "theirs"), [("4,GPU-5", ["4", "GPU-5", "4"]), (None, ["0", "1", "0"])]
)
def test_a_process_gets_one_of_the_visible_gpus(
    visible: str | None, theirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [gpu.own_gpu(number) for number in range(3)]
    assert [one.pop("CUDA_VISIBLE_DEVICES") for one in found] == theirs
    assert found == 3 * [{"FLAGS_selected_gpus": "0", "NVIDIA_TF32_OVERRIDE": "0"}]


def test_without_gpus_nothing_is_set_or_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 0)
    monkeypatch.setattr("paddle.device.cuda.empty_cache", None)
    gpu.release_memory()
    assert gpu.own_gpu(1) == {}


def test_the_driver_names_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path)
    assert gpu.gpu_names() == []
    for number, name in enumerate(("NVIDIA H100 80GB HBM3", "Tesla T4")):
        (tmp_path / f"0000:{number}").mkdir()
        text = f"Model: \t\t {name}\nIRQ:   \t\t 255\nGPU UUID: \t GPU-1\n"
        (tmp_path / f"0000:{number}" / "information").write_text(text)
    assert gpu.gpu_names() == ["NVIDIA H100 80GB HBM3", "Tesla T4"]
