"""GhostNet's head and gates."""

from __future__ import annotations

import numpy as np
import paddle

from ppcls_core.models.registry import build_model

TINY = {"blocks": [[3, 16, 16, True, 1]], "feature_width": 64}


def seen_by(layer: paddle.nn.Layer) -> list[np.ndarray]:
    inputs: list[np.ndarray] = []
    layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].numpy()))
    return inputs


def test_dropout_scales_in_training_alone():
    paddle.seed(1)
    model = build_model("GhostNet_x0_5", num_classes=3, spec=TINY)
    before, after = seen_by(model.dropout), seen_by(model.fc_1)
    x = paddle.randn([64, 3, 32, 32])
    model(x)
    kept = after[0] != 0
    np.testing.assert_allclose(after[0][kept], before[0][kept] / 0.8, rtol=1e-6)
    assert 0.15 < 1 - kept[before[0] != 0].mean() < 0.25
    model.eval()
    model(x)
    np.testing.assert_array_equal(after[1], before[1])


def test_gates_are_clipped_to_the_unit_interval():
    model = build_model("GhostNet_x0_5", num_classes=3, spec=TINY)
    gate = model.blocks[0].se_block
    x = paddle.ones([1, 8, 2, 2])
    for bias, want in ((-5.0, 0.0), (0.25, 0.25), (5.0, 1.0)):
        gate.excitation.weight.set_value(paddle.zeros_like(gate.excitation.weight))
        gate.excitation.bias.set_value(paddle.full_like(gate.excitation.bias, bias))
        assert (gate(x).numpy() == want).all()
