"""MobileNetV3's learning rates by depth."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.models.registry import build_model, spec_of

FACTORS = [0.1, 0.2, 0.3, 0.4, 0.5]
TINY = {"blocks": [[3, 16, 8, True, "relu", 2]], "last_width": 16, "feature_width": 8}


def rates(name: str, factors: list[float]) -> dict[str, float]:
    """Factor of every trainable parameter."""
    with paddle.LazyGuard():
        model = build_model(name, num_classes=3, spec={"lr_mult_list": factors})
    return {
        key: parameter.optimize_attr["learning_rate"]
        for key, parameter in model.named_parameters()
        if parameter.trainable
    }


@pytest.mark.parametrize(
    ("name", "first_blocks"),
    [("MobileNetV3_large_x1_0", [0, 3, 6, 9, 12]), ("MobileNetV3_small_x0_35", [0, 2, 4, 6, 8])],
)
def test_factors_follow_the_depth(name, first_blocks):
    got = rates(name, FACTORS)
    assert got["conv.conv.weight"] == 0.1
    assert got["last_second_conv.conv.weight"] == 0.5
    assert got["last_conv.weight"] == got["fc.weight"] == got["fc.bias"] == 1.0
    for key, factor in got.items():
        if key.startswith("blocks."):
            block = int(key.split(".")[1])
            group = max(i for i, first in enumerate(first_blocks) if first <= block)
            assert factor == (1.0 if ".bn." in key else FACTORS[group]), key
        elif ".bn." in key:
            assert factor == 1.0, key
    gated = next(key for key in got if key.endswith("mid_se.conv2.bias"))
    assert got[gated] == FACTORS[1 if "large" in name else 0]


def test_factors_are_one_unless_asked_for():
    assert set(rates("MobileNetV3_small_x0_35", [1.0] * 5).values()) == {1.0}
    assert spec_of("MobileNetV3_small_x0_35").model_dump()["lr_mult_list"] == (1.0,) * 5


def test_the_optimizer_heeds_the_factors():
    paddle.seed(1)
    spec = {**TINY, "lr_mult_list": [0, 1, 1, 1, 1]}
    model = build_model("MobileNetV3_small_x0_35", num_classes=3, spec=spec)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    model(paddle.randn([4, 3, 32, 32])).square().sum().backward()
    paddle.optimizer.Momentum(0.1, parameters=model.parameters(), weight_decay=0.1).step()
    after = model.state_dict()
    still = {key for key in before if np.array_equal(after[key].numpy(), before[key])}
    assert {"conv.conv.weight", "blocks.0.mid_se.conv1.weight"} <= still
    assert not {"conv.bn.bias", "last_second_conv.conv.weight", "fc.weight"} & still


@pytest.mark.parametrize("factors", [[1, 1, 1, 1], [1, 1, 1, 1, -1]])
def test_factors_are_checked(factors):
    with pytest.raises(UserError, match="lr_mult_list"):
        spec_of("MobileNetV3_small_x0_35", {"lr_mult_list": factors})
