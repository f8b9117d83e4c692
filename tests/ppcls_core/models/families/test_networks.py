"""What the goldens cannot show: training mode, initial weights, sizes other than 224."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import paddle
import pytest

from ppcls_core.models.features import Backbone
from ppcls_core.models.networks.layers import ConvBN
from ppcls_core.models.registry import build_model, spec_of
from tests.conftest import others_slow

TINY_MOBILE = [[3, 16, 8, True, "relu", 2], [5, 24, 8, False, "hardswish", 1]]
TINY_RESNET = {"width": 8, "depths": [2, 1, 1, 1]}
TINY_GROUPS = {**TINY_RESNET, "cardinality": 4, "group_width": 2}
TINY = {
    "ResNet18": TINY_RESNET,
    "ResNet50": TINY_RESNET,
    "ResNet50_vc": TINY_RESNET,
    "ResNet18_vd": {"width": 8, "depths": [1, 1, 1, 2]},
    "ResNet50_vd": {"width": 4, "depths": [2, 1, 1, 1]},
    "ResNet50_ACNet": TINY_RESNET,
    "ResNet50_ACNet_deploy": TINY_RESNET,
    "ResNeXt50_32x4d": TINY_GROUPS,
    "ResNeXt101_32x8d_wsl": TINY_GROUPS,
    "SE_ResNet18_vd": {**TINY_RESNET, "reduction": 2},
    "SENet154_vd": {**TINY_GROUPS, "stem_width": 12, "reduction": 2},
    "Res2Net50_26w_4s": {**TINY_RESNET, "group_width": 2},
    "Res2Net50_vd_26w_4s": {**TINY_RESNET, "group_width": 2, "scales": 2},
    "MobileNetV1_x0_25": {"blocks": [[32, 2], [64, 2], [64, 2], [64, 2]]},
    "MobileNetV2_x0_25": {"stages": [[1, 32, 1, 1], [2, 64, 2, 2]], "feature_width": 24},
    "MobileNetV3_large_x0_5": {"blocks": TINY_MOBILE, "last_width": 32, "feature_width": 24},
    "ShuffleNetV2_x0_25": {"widths": [8, 8, 16], "depths": [2, 1, 1], "feature_width": 24},
    "ShuffleNetV2_swish": {"widths": [8, 8, 16], "depths": [2, 1, 1], "feature_width": 24},
    "GhostNet_x0_5": {
        "blocks": [[3, 16, 16, True, 1], [5, 48, 24, False, 2]],
        "feature_width": 24,
    },
    "EfficientNetB0": {"stages": [[3, 1, 16, 1, 1], [5, 2, 16, 2, 2]], "feature_width": 24},
    "EfficientNetB0_small": {"stages": [[3, 1, 16, 1, 1], [5, 2, 16, 2, 2]], "feature_width": 24},
    "VGG11": {"width": 4, "hidden": 16},
    "AlexNet": {"widths": [8, 8, 8, 8, 8], "hidden": 16},
    "SqueezeNet1_0": {"stem_width": 8, "squeezed": [[2], [2, 2], [2]]},
    "DarkNet53": {"depths": [1, 1, 2, 1, 1], "width": 4},
    "GoogLeNet": {
        "blocks": [[4, 2, 4, 2, 4, 4]] * 9,
        "stem_widths": [4, 8],
        "auxiliary_widths": [4, 16],
    },
    "DenseNet121": {"depths": [1, 2, 1, 1], "stem_width": 8, "growth": 4},
    "DPN68": {
        "depths": [1, 2, 1, 1],
        "growths": [2, 2, 4, 2],
        "groups": 2,
        "group_width": 2,
        "stem_width": 8,
        "width": 8,
    },
    "InceptionV3": {"pooled": [32, 64], "inner": [128], "depth": 1, "width": 2},
    "InceptionV4": {"depths": [1, 1, 1], "width": 2},
    "RegNetX_4GF": {
        "depths": [1, 2, 1, 1],
        "widths": [8, 8, 16, 16],
        "group_width": 4,
        "stem_width": 4,
    },
    "ResNeSt50": {"depths": [1, 2, 1, 1], "width": 4, "stem_width": 4},
    "ResNeSt50_fast_1s1x64d": {"depths": [1, 2, 1, 1], "width": 4, "stem_width": 4},
    "CSPResNet50_leaky": {"depths": [2, 1, 1, 1], "width": 4},
    "Xception71": {
        "entry": [[4, 2], [6, 1], [8, 2]],
        "middle": 1,
        "stem_width": 4,
        "exit_widths": [8, 8, 12],
    },
    "Xception41_deeplab": {
        "entry": [[4, 2], [6, 2], [8, 2]],
        "middle": 1,
        "stem_width": 4,
        "exit_widths": [8, 8, 12],
    },
    "HRNet_W18_C": {
        "width": 4,
        "modules": [1, 1, 1],
        "depth": 1,
        "stem_width": 4,
        "head_width": 2,
        "feature_width": 16,
    },
}

# Depthwise convolutions and squeeze-and-excitation, no ONNX, shuffled channels, three outputs.
EXPORTED = ("MobileNetV3_large_x0_5", "CSPResNet50_leaky", "ShuffleNetV2_x0_25", "GoogLeNet")
# One of each family.
FAMILIES = (
    "AlexNet",
    "CSPResNet50_leaky",
    "DPN68",
    "DarkNet53",
    "DenseNet121",
    "EfficientNetB0",
    "GhostNet_x0_5",
    "GoogLeNet",
    "HRNet_W18_C",
    "InceptionV3",
    "InceptionV4",
    "MobileNetV1_x0_25",
    "MobileNetV2_x0_25",
    "MobileNetV3_large_x0_5",
    "RegNetX_4GF",
    "Res2Net50_vd_26w_4s",
    "ResNeSt50",
    "ResNet50_vd",
    "SE_ResNet18_vd",
    "ShuffleNetV2_x0_25",
    "SqueezeNet1_0",
    "VGG11",
    "Xception71",
)
# All but the six that take half of the time.
QUICK = set(FAMILIES) - {
    "AlexNet",
    "DarkNet53",
    "HRNet_W18_C",
    "InceptionV4",
    "VGG11",
    "Xception71",
}


def tiny(name: str, num_classes: int = 5) -> paddle.nn.Layer:
    paddle.seed(7)
    return build_model(name, num_classes=num_classes, spec=TINY[name])


def images(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def logits_of(outputs: paddle.Tensor | tuple[paddle.Tensor, ...]) -> list[paddle.Tensor]:
    """All outputs: GoogLeNet has three in training."""
    return [outputs] if isinstance(outputs, paddle.Tensor) else list(outputs)


@pytest.mark.parametrize("name", TINY)
def test_a_training_step_moves_every_parameter(name):
    model = tiny(name)
    side = max(64, spec_of(name).min_size)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    labels = paddle.to_tensor([0, 1, 2, 3, 4, 0, 1, 2])
    outputs = logits_of(model(images(8, 3, side, side)))
    loss = paddle.add_n([paddle.nn.functional.cross_entropy(out, labels) for out in outputs])
    loss.backward()
    optimizer.step()
    assert math.isfinite(float(loss))
    for key, tensor in model.state_dict().items():
        assert np.isfinite(tensor.numpy()).all(), key
        assert not np.array_equal(tensor.numpy(), before[key]), key


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("extra", [(32, 32), (33, 65), (39, 38), (0, 1)])
def test_any_size_from_the_smallest_gives_logits(name, extra):
    model = tiny(name)
    model.eval()
    height, width = (spec_of(name).min_size + more for more in extra)
    logits = model(images(2, 3, height, width))
    assert logits.shape == [2, 5]
    assert np.isfinite(logits.numpy()).all()
    assert not np.allclose(logits[0].numpy(), logits[1].numpy(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", TINY)
def test_each_stage_halves_the_one_before(name):
    model = tiny(name)
    model.eval()
    maps = model.features(images(2, 3, 256, 256))
    assert list(maps) == [f"stage{i}" for i in range(1, len(maps) + 1)]
    strides = Backbone(model).strides
    assert all(b == 2 * a for a, b in pairwise(strides)), strides


@pytest.mark.parametrize("name", others_slow(TINY, EXPORTED[:1]))
def test_an_exported_program_takes_any_batch(name, tmp_path):
    model = tiny(name)
    model.eval()
    side = max(64, spec_of(name).min_size)
    spec = paddle.static.InputSpec([None, 3, side, side], "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.jit.save(model, str(tmp_path / "net"), input_spec=[spec])
    program = paddle.jit.load(str(tmp_path / "net"))
    for num in (1, 3):
        x = images(num, 3, side, side)
        np.testing.assert_allclose(program(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_eval_mode_is_a_function_of_each_image_alone(name):
    model = tiny(name)
    model.eval()
    side = max(64, spec_of(name).min_size)
    batch = images(4, 3, side, side)
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
