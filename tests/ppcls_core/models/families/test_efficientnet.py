"""EfficientNet's padding, stochastic depth and settings from YAML files."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from data_catalog.base.config import UserError
from ppcls_core.models.networks.efficientnet import DropConnect, ShiftedConvBN
from ppcls_core.models.networks.layers import Residual
from ppcls_core.models.registry import build_model, spec_of

LITE = {"fix_head_stem": True, "relu_fn": True, "squeeze_excite": False}


def lazy(name: str, **spec: object) -> paddle.nn.Layer:
    with paddle.LazyGuard():
        return build_model(name, num_classes=3, spec=spec)


def parts(model: paddle.nn.Layer, kind: type) -> list[paddle.nn.Layer]:
    return [layer for layer in model.sublayers() if isinstance(layer, kind)]


@pytest.mark.parametrize("kernel", [3, 5])
def test_even_sizes_are_padded_as_in_tensorflow(kernel):
    x = paddle.randn([2, 3, 12, 8])
    layer = ShiftedConvBN((3, 4), kernel, 2, activation=None)
    layer.eval()
    want = F.conv2d(x, layer.parameters()[0], stride=2, padding="SAME")
    np.testing.assert_allclose(layer(x).numpy(), want.numpy() / np.sqrt(1.001), atol=1e-5)
    assert layer(x[:, :, 1:, 1:]).shape == [2, 4, 6, 4]


@pytest.mark.parametrize(
    ("name", "spec", "count"),
    [
        ("EfficientNetB0", {}, 5),  # 224, 112, 56, 28, 14
        ("EfficientNetB1", {}, 4),  # 240, 120, 60, 30, but 15
        ("EfficientNetB2", {}, 2),  # 260, 130, but 65, 33, 17
        ("EfficientNetB0", {"resolution": 225}, 0),
        ("EfficientNetB0", {"padding_type": "DYNAMIC"}, 0),
        ("EfficientNetB0_small", {}, 0),
    ],
)
def test_the_variant_s_resolution_says_where_sizes_are_even(name, spec, count):
    assert len(parts(lazy(name, **spec), ShiftedConvBN)) == count


def test_drop_connect_rises_with_the_depth():
    model = lazy("EfficientNetB0", drop_connect_rate=0.16)
    blocks = parts(model, Residual)
    rates = {number: block.drop.rate for number, block in enumerate(blocks) if block.is_residual}
    assert rates == pytest.approx({n: n / 100 for n in (2, 4, 6, 7, 9, 10, 12, 13, 14)})


def test_drop_connect_drops_whole_images_in_training_alone():
    paddle.seed(1)
    x = paddle.rand([400, 2, 3, 3]) + 1.0
    drop = DropConnect(0.25)
    got = drop(x).numpy()
    kept = got[:, 0, 0, 0] != 0
    assert 0.15 < 1 - kept.mean() < 0.35
    np.testing.assert_allclose(got[kept], x.numpy()[kept] / 0.75, rtol=1e-6)
    assert not got[~kept].any()
    drop.eval()
    np.testing.assert_array_equal(drop(x).numpy(), x.numpy())


def test_lite_fixes_the_ends():
    shapes = {
        key: tensor.shape
        for key, tensor in lazy("EfficientNetB4", **LITE).state_dict().items()
        if key.endswith("_conv.weight")
    }
    assert shapes["_ef._conv_stem._conv._conv._conv.weight"] == [32, 3, 3, 3]
    assert shapes["_ef._blocks.0.._dcn._conv._conv._conv.weight"] == [32, 1, 3, 3]
    assert shapes["_ef._blocks.1.._pcn._conv._conv._conv.weight"] == [32, 144, 1, 1]
    assert shapes["_conv._conv._conv.weight"] == [1280, 448, 1, 1]
    assert not any("_se" in key for key in shapes)


def test_relu6_takes_the_place_of_swish():
    stem = lazy("EfficientNetB0", relu_fn=True)._ef[0]
    assert stem.activation(paddle.to_tensor([-1.0, 9.0])).tolist() == [0.0, 6.0]
    swish = lazy("EfficientNetB0")._ef[0].activation(paddle.to_tensor([-1.0, 9.0]))
    np.testing.assert_allclose(swish.numpy(), [-0.26894143, 8.998889], rtol=1e-6)


def test_padding_that_breaks_the_residuals_is_refused():
    with pytest.raises(UserError, match=r"padding_type: .*'SAME' or 'DYNAMIC', got 'VALID'"):
        spec_of("EfficientNetB0", {"padding_type": "VALID"})
