"""Backbones under PaddleDetection's names, against lists written down from its networks' code."""

from __future__ import annotations

import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.models.registry import build_model, known_models, spec_of
from ppcls_core.models.weights.detection import detection_state

EXPECTED = {
    "ResNet18": {
        "conv1.conv1.conv.weight": [64, 3, 7, 7],
        "conv1.conv1.norm._variance": [64],
        "res2.res2a.branch2a.conv.weight": [64, 64, 3, 3],
        "res2.res2a.branch2b.conv.weight": [64, 64, 3, 3],
        "res2.res2a.short.conv.weight": [64, 64, 1, 1],
        "res2.res2b.branch2b.norm.bias": [64],
        "res3.res3a.short.conv.weight": [128, 64, 1, 1],
        "res5.res5a.branch2a.conv.weight": [512, 256, 3, 3],
        "res5.res5b.branch2b.norm._mean": [512],
    },
    "ResNet34_vd": {
        "conv1.conv1_2.conv.weight": [32, 32, 3, 3],
        "res2.res2a.short.conv.weight": [64, 64, 1, 1],
        "res3.res3a.short.conv.conv.weight": [128, 64, 1, 1],
        "res4.res4f.branch2b.conv.weight": [256, 256, 3, 3],
        "res5.res5a.short.conv.norm.weight": [512],
    },
    "ResNet50_vc": {
        "conv1.conv1_3.conv.weight": [64, 32, 3, 3],
        "conv1.conv1_3.norm._mean": [64],
        "res2.res2a.branch2c.conv.weight": [256, 64, 1, 1],
        "res3.res3a.short.conv.weight": [512, 256, 1, 1],
    },
    "ResNet50_vd": {
        "conv1.conv1_1.conv.weight": [32, 3, 3, 3],
        "conv1.conv1_1.norm.weight": [32],
        "conv1.conv1_3.norm._variance": [64],
        "res2.res2a.branch2a.conv.weight": [64, 64, 1, 1],
        "res2.res2a.branch2b.conv.weight": [64, 64, 3, 3],
        "res2.res2a.branch2c.conv.weight": [256, 64, 1, 1],
        "res2.res2a.branch2c.norm._mean": [256],
        "res2.res2a.short.conv.weight": [256, 64, 1, 1],
        "res2.res2a.short.norm.bias": [256],
        "res2.res2c.branch2a.conv.weight": [64, 256, 1, 1],
        "res3.res3a.branch2a.conv.weight": [128, 256, 1, 1],
        "res3.res3a.short.conv.conv.weight": [512, 256, 1, 1],
        "res3.res3a.short.conv.norm._variance": [512],
        "res3.res3d.branch2b.conv.weight": [128, 128, 3, 3],
        "res4.res4a.short.conv.conv.weight": [1024, 512, 1, 1],
        "res4.res4b.branch2a.conv.weight": [256, 1024, 1, 1],
        "res4.res4f.branch2c.conv.weight": [1024, 256, 1, 1],
        "res5.res5a.branch2a.conv.weight": [512, 1024, 1, 1],
        "res5.res5a.short.conv.norm.weight": [2048],
        "res5.res5c.branch2c.norm._variance": [2048],
    },
    "ResNet101": {
        "res3.res3d.branch2a.conv.weight": [128, 512, 1, 1],
        "res4.res4a.short.conv.weight": [1024, 512, 1, 1],
        "res4.res4b1.branch2a.conv.weight": [256, 1024, 1, 1],
        "res4.res4b22.branch2c.norm._mean": [1024],
        "res5.res5c.branch2b.conv.weight": [512, 512, 3, 3],
    },
    "ResNet152_vd": {
        "res3.res3h.branch2a.conv.weight": [128, 512, 1, 1],
        "res4.res4a.short.conv.conv.weight": [1024, 512, 1, 1],
        "res4.res4b35.branch2b.norm.weight": [256],
    },
    "MobileNetV3_large_x1_0": {
        "conv1.conv.weight": [16, 3, 3, 3],
        "conv1.bn._variance": [16],
        "conv2.expand_conv.conv.weight": [16, 16, 1, 1],
        "conv3.bottleneck_conv.conv.weight": [64, 1, 3, 3],
        "conv5.mid_se.conv1.weight": [18, 72, 1, 1],
        "conv5.mid_se.conv2.bias": [72],
        "conv13.linear_conv.bn._mean": [112],
        "conv16.linear_conv.conv.weight": [160, 960, 1, 1],
    },
    "MobileNetV3_small_x0_35": {
        "conv2.mid_se.conv1.bias": [2],
        "conv12.expand_conv.bn.weight": [200],
        "conv12.linear_conv.conv.weight": [32, 200, 1, 1],
    },
}
V3 = {name for name in known_models() if name.startswith("MobileNetV3")}
SAME = {  # entries of one shape, which a wrong order would swap unseen
    "conv1.conv1_2.norm._mean": "stem.1.bn._mean",
    "conv1.conv1_2.norm._variance": "stem.1.bn._variance",
    "res2.res2a.short.norm.weight": "blocks.0.short.bn.weight",
    "res2.res2a.branch2c.norm.weight": "blocks.0.conv2.bn.weight",
    "res2.res2c.branch2b.conv.weight": "blocks.2.conv1.conv.weight",
    "res3.res3a.short.conv.conv.weight": "blocks.3.short.conv.weight",
    "res4.res4e.branch2a.conv.weight": "blocks.11.conv0.conv.weight",
    "res5.res5b.branch2a.norm.bias": "blocks.14.conv0.bn.bias",
}
SAME_V3 = {
    "conv1.bn._mean": "conv.bn._mean",
    "conv2.mid_se.conv1.weight": "blocks.0.mid_se.conv1.weight",
    "conv7.expand_conv.conv.weight": "blocks.5.expand_conv.conv.weight",
    "conv11.bottleneck_conv.bn.bias": "blocks.9.bottleneck_conv.bn.bias",
    "conv12.bottleneck_conv.bn._variance": "blocks.10.bottleneck_conv.bn._variance",
}


def shapes(name, num_classes=1000):
    with paddle.LazyGuard():
        model = build_model(name, num_classes=num_classes)
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_names_are_paddledetection_s(name):
    state = shapes(name, num_classes=3)
    renamed = detection_state(name, state)
    assert {key: renamed.get(key) for key in EXPECTED[name]} == EXPECTED[name]
    # All but the classifier's weight and bias, and MobileNetV3's six entries before them.
    assert len(renamed) == len(state) - (8 if name in V3 else 2)
    assert not any(key.startswith(("fc", "out", "last")) for key in renamed)


def test_every_value_goes_where_it_belongs():
    state = {key: key for key in shapes("ResNet50_vd")}
    renamed = detection_state(spec_of("ResNet50_vd"), state)
    assert {key: renamed[key] for key in SAME} == SAME
    v3 = detection_state("MobileNetV3_small_x1_0", {k: k for k in shapes("MobileNetV3_small_x1_0")})
    assert {theirs: v3[theirs] for theirs in SAME_V3} == SAME_V3


def test_other_networks_are_refused():
    taken = V3 | {"ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", "ResNet50_vc"}
    taken |= {f"ResNet{depth}_vd" for depth in (18, 34, 50, 101, 152, 200)}
    for name in set(known_models()) - taken:
        with pytest.raises(UserError, match="expected a ResNet, ResNet_vc, ResNet_vd or Mobile"):
            detection_state(name, {})


def test_weights_of_another_depth_are_refused():
    # Eight blocks more of ten entries each, and six shortcuts of five at other places.
    with pytest.raises(UserError, match=r"110 entries are missing or unexpected, such as 'blocks"):
        detection_state("ResNet34_vd", shapes("ResNet18_vd"))
