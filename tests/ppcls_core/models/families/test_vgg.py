"""VGG and AlexNet: sizes other than 224, places of the dropout, initial weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_core.models.registry import build_model

TINY = {
    "VGG11": {"width": 2, "hidden": 16},
    "AlexNet": {"widths": [4, 6, 8, 6, 4], "hidden": 16},
}


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(64, 96), (224, 224), (230, 320)])
def test_the_linear_layers_see_a_map_of_one_size(name, size):
    model = build_model(name, num_classes=5, spec=TINY[name])
    assert model(images(1, 3, *size)).shape == [1, 5]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("VGG11", ["fc1", "drop", "fc2", "drop", "fc3"]),
        ("AlexNet", ["drop", "_fc6", "drop", "_fc7", "_fc8"]),
    ],
)
def test_order_of_the_head(name, order):
    model = build_model(name, num_classes=5, spec=TINY[name])
    seen = []
    for layer in set(order):
        getattr(model, layer).register_forward_pre_hook(
            lambda _, inputs, layer=layer: seen.append(layer)
        )
    model(images(2, 3, 64, 64))
    assert seen == order


def test_alexnet_s_last_layers_start_as_narrow_as_its_first():
    paddle.seed(3)
    model = build_model("AlexNet", spec={"widths": [2, 2, 2, 2, 16], "hidden": 64})
    for layer in (model._fc6, model._fc7, model._fc8):
        for parameter in (layer.weight, layer.bias):
            assert 0.8 / 24 < float(parameter.abs().max()) <= 1 / 24  # 24^2 = 16 * 6 * 6
