"""What the goldens cannot show: training mode, initial weights, sizes other than 224."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppcls_core.models.layers import ConvBN
from ppcls_core.models.registry import build_model
from ppcls_core.models.resnet_vd import ResidualBlock

TINY_MOBILE = [[3, 16, 8, True, "relu", 2], [5, 24, 8, False, "hardswish", 1]]
TINY = {
    "ResNet18_vd": {"width": 8, "depths": [1, 1, 1, 2]},
    "ResNet50_vd": {"width": 4, "depths": [2, 1, 1, 1]},
    "MobileNetV3_large_x0_5": {"blocks": TINY_MOBILE, "last_width": 32, "feature_width": 24},
    "ResNeXt101_32x8d_wsl": {
        "width": 8,
        "cardinality": 4,
        "group_width": 2,
        "depths": [2, 1, 1, 1],
    },
}


def tiny(name: str, num_classes: int = 5) -> paddle.nn.Layer:
    paddle.seed(7)
    return build_model(name, num_classes=num_classes, spec=TINY[name])


def images(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", TINY)
def test_a_training_step_moves_every_parameter(name):
    model = tiny(name)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    loss = paddle.nn.functional.cross_entropy(
        model(images(8, 3, 64, 64)), paddle.to_tensor([0, 1, 2, 3, 4, 0, 1, 2])
    )
    loss.backward()
    optimizer.step()
    assert math.isfinite(float(loss))
    for key, tensor in model.state_dict().items():
        assert np.isfinite(tensor.numpy()).all(), key
        assert not np.array_equal(tensor.numpy(), before[key]), key


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (71, 70), (32, 33)])
def test_any_size_gives_logits(name, size):
    model = tiny(name)
    model.eval()
    logits = model(images(2, 3, *size))
    assert logits.shape == [2, 5]
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("name", TINY)
def test_eval_mode_is_a_function_of_each_image_alone(name):
    model = tiny(name)
    model.eval()
    batch = images(4, 3, 64, 64)
    together = model(batch).numpy()
    np.testing.assert_allclose(model(batch[2:3]).numpy()[0], together[2], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model(batch).numpy(), together)


def test_dropout_acts_in_training_and_scales_in_eval():
    model = tiny("MobileNetV3_large_x0_5")
    seen = []
    model.fc.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    before = []
    model.dropout.register_forward_pre_hook(lambda layer, inputs: before.append(inputs[0].numpy()))
    batch = images(64, 3, 64, 64)
    model(batch)
    kept = seen[0] != 0
    np.testing.assert_array_equal(seen[0][kept], before[0][kept])  # not scaled up
    assert 0.15 < 1 - kept[before[0] != 0].mean() < 0.25
    model.eval()
    model(batch)
    np.testing.assert_allclose(seen[1], 0.8 * before[1], rtol=1e-6)


def test_mobilenet_keeps_weight_decay_off_its_batch_norms():
    """With decay alone, from gradients of zero, convolutions shrink and batch norms stay."""
    for name, norms_shrink in (("MobileNetV3_large_x0_5", False), ("ResNet18_vd", True)):
        model = tiny(name)
        optimizer = paddle.optimizer.Momentum(0.5, parameters=model.parameters(), weight_decay=0.1)
        (model(images(2, 3, 64, 64)).sum() * 0.0).backward()
        optimizer.step()
        state = model.state_dict()
        scales = [v.numpy() for key, v in state.items() if key.endswith("bn.weight")]
        assert all(np.allclose(scale, 0.95 if norms_shrink else 1.0) for scale in scales)


def test_shortcut_averages_instead_of_skipping():
    """ResNet-D: the strided shortcut sees all four places, at odd borders those that exist."""
    block = ResidualBlock((1, 1, 1), stride=2, project=True, bottleneck=False)
    block.eval()
    block.short.conv.weight.set_value(np.ones((1, 1, 1, 1), np.float32))
    x = paddle.to_tensor(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3))
    got = block.shortcut(x).numpy()[0, 0] * np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(got, [[2.0, 3.5], [6.5, 8.0]], rtol=1e-5)


def test_first_stage_s_shortcut_keeps_every_place():
    blocks = tiny("ResNet18_vd").blocks
    assert [block.stride for block in blocks] == [1, 2, 2, 2, 1]
    assert [block.short is not None for block in blocks] == [True, True, True, True, False]


def test_initial_weights():
    paddle.seed(11)
    model = build_model("ResNet18_vd", num_classes=400)
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    conv = state["blocks.7.conv0.conv.weight"]
    assert conv.std() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.02)
    assert conv.mean() == pytest.approx(0, abs=1e-4)
    bound = 1 / math.sqrt(512)
    assert bound * 0.99 < np.abs(state["fc.weight"]).max() <= bound
    assert state["fc.weight"].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not state["fc.bias"].any()
    assert (state["stem.0.bn.weight"] == 1).all()
    assert (state["stem.0.bn._variance"] == 1).all()


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [8, 9])
def test_conv_bn_pads_to_half_rounded_up(kernel, size):
    x = images(1, 3, size, size)
    assert ConvBN((3, 4), kernel)(x).shape == [1, 4, size, size]
    assert ConvBN((3, 4), kernel, stride=2)(x).shape == [1, 4, (size + 1) // 2, (size + 1) // 2]


def test_conv_bn_activation():
    x = images(1, 3, 8, 8)
    assert ConvBN((3, 4), 3)(x).numpy().min() == 0
    assert ConvBN((3, 4), 3, activation=None)(x).numpy().min() < 0
