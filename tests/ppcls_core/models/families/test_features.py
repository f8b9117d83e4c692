"""Networks as feature extractors, their costs, and the hub's door to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from data_catalog.published import published_weights
from ppcls_core.models.complexity import count_operations, count_parameters
from ppcls_core.models.features import Backbone, embed
from ppcls_core.models.registry import build_model, known_models

PROJECT = Path(__file__).resolve().parents[4]
TINY = {"width": 8, "depths": [1, 1, 1, 1]}


def images(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def test_a_backbone_gives_the_maps_asked_for():
    model = build_model("ResNet50_vd", num_classes=3, spec=TINY)
    backbone = Backbone(model, ["stage4", "stage2"])
    assert backbone.stages == ["stage2", "stage4"]
    assert (backbone.channels, backbone.strides) == ([64, 256], [8, 32])
    maps = backbone(images(2, 3, 64, 96))
    assert [m.shape for m in maps] == [[2, 64, 8, 12], [2, 256, 2, 3]]
    assert model.training
    with pytest.raises(UserError, match="no stage 'stage5' in this model"):
        Backbone(model, ["stage5"])


def test_building_a_backbone_changes_nothing():
    model = build_model("ResNet18_vd", num_classes=3, spec=TINY)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    Backbone(model)
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key])


def test_the_embedding_is_what_the_classifier_sees():
    model = build_model("ResNet18_vd", num_classes=3, spec=TINY)
    model.eval()
    x = images(2, 3, 64, 64)
    vectors = embed(model, x)
    assert vectors.shape == [2, 64]
    np.testing.assert_allclose(model.fc(vectors).numpy(), model(x).numpy(), rtol=1e-6)
    assert not model.fc._forward_pre_hooks


def test_operations_and_parameters_of_a_net_counted_by_hand():
    spec = {"width": 2, "depths": [1, 1, 1, 1]}
    model = build_model("ResNet18", num_classes=3, spec=spec)
    stem = 2 * (3 * 49) * 2 * 16 * 16  # 32 px, stride 2
    stages, side, before = 0, 8, 2
    for width in (2, 4, 8, 16):
        convolutions = 9 * before + 9 * width + before * (before != width or width == 2)
        stages += 2 * convolutions * width * side * side
        side, before = side // 2, width
    assert count_operations(model, 32) == stem + stages + 2 * 16 * 3
    assert model.training
    weights = 3 * 49 * 2 + 2 * 2
    before = 2
    for width in (2, 4, 8, 16):
        weights += (9 * before + 9 * width + before) * width + 3 * 2 * width
        before = width
    assert count_parameters(model) == weights + 16 * 3 + 3


def test_the_hub_has_every_name():
    names = paddle.hub.list(str(PROJECT), source="local")
    assert set(names) == {*known_models(), *published_weights()}
    assert "num_classes" in paddle.hub.help(str(PROJECT), "ResNet50_vd_ssld", source="local")


def test_the_hub_builds_models():
    model = paddle.hub.load(
        str(PROJECT), "ResNet18_vd", source="local", num_classes=7, spec=TINY, pretrained=False
    )
    assert model.fc.weight.shape == [64, 7]
