"""Mixed precision: what can be checked without a GPU, and the message that says to take one."""

import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.engine.precision import Precision


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.skipif(paddle.device.get_device() != "cpu", reason="is about CPUs")
def test_low_precision_needs_a_gpu(dtype):
    with pytest.raises(
        UserError, match=rf"{dtype} cannot be trained on the device 'cpu'; leave it out, for fp32"
    ):
        Precision(dtype=dtype).check()


def test_fp32_needs_nothing_and_scales_nothing():
    precision = Precision()
    precision.check()
    with precision.autocast():
        assert (paddle.ones([2, 2]) @ paddle.ones([2, 2])).dtype == paddle.float32
    assert precision.scaler().state_dict() == {}
    assert Precision(dtype="bf16").scaler().state_dict() == {}  # has the range of float32


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_level_and_type_reach_paddle(monkeypatch, dtype, name, level):
    asked = {}
    monkeypatch.setattr("paddle.amp.auto_cast", lambda **options: asked.update(options))
    Precision(dtype=dtype, level=level).autocast()
    assert asked == {"level": level, "dtype": name, "use_promote": False}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_product_is_low_and_parameters_stay_float32(dtype, level):
    precision = Precision(dtype=dtype, level=level)
    precision.check()
    layer = paddle.nn.Conv2D(3, 4, 1)
    with precision.autocast():
        out = layer(paddle.ones([1, 3, 2, 2]))
    precision.scaler().scale(out.astype("float32").sum()).backward()
    assert level == "O1" or out.dtype != paddle.float32
    assert layer.weight.dtype == layer.weight.grad.dtype == paddle.float32
