"""DenseNet and DPN: what their blocks do to the map."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_core.models.networks.densenet import DenseLayer, DualPathBlock, Transition
from ppcls_core.models.registry import build_model, spec_of

DPN = {
    "depths": [1, 1, 1, 1],
    "growths": [2, 2, 2, 2],
    "groups": 2,
    "group_width": 2,
    "stem_width": 4,
    "width": 4,
}
TINY = {
    "DenseNet121": {"depths": [1, 2, 1, 1], "stem_width": 4, "growth": 2},
    "DPN68": DPN,
}


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def test_a_dense_layer_appends_to_its_input():
    x = images(2, 4, 5, 5)
    y = DenseLayer(4, growth=3)(x)
    assert y.shape == [2, 7, 5, 5]
    np.testing.assert_array_equal(y[:, :4], x)


def test_a_transition_rounds_down():
    assert Transition(6)(images(2, 6, 5, 7)).shape == [2, 3, 2, 3]


def test_a_dual_path_block_adds_to_some_channels_and_appends_others():
    x = images(2, 4 + 6, 5, 5)
    y = DualPathBlock(spec_of("DPN68", DPN), before=10, stage=0, projected=False)(x)
    assert y.shape == [2, 4 + 6 + 2, 5, 5]
    np.testing.assert_array_equal(y[:, 4:10], x[:, 4:])
    assert not np.isclose(y[:, :4], x[:, :4]).all()


@pytest.mark.parametrize("name", TINY)
def test_the_last_stage_is_what_the_head_pools(name):
    """Normalised, with ReLU; the stages before it are not."""
    model = build_model(name, num_classes=5, spec=TINY[name])
    maps = model.features(images(2, 3, 64, 64))
    assert [x.shape[2] for x in maps.values()] == [16, 8, 4, 2]
    assert [bool(x.min() < 0) for x in maps.values()] == [True, True, True, False]
