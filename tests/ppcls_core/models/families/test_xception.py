"""Xception and its version of DeepLab: what differs between the two in training."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_core.models.networks.layers import BatchNorm
from ppcls_core.models.registry import build_model

SPEC = {"entry": [[4, 2], [6, 1], [8, 2]], "middle": 1, "stem_width": 2, "exit_widths": [8, 8, 12]}


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", ["Xception71", "Xception65_deeplab"])
def test_stages_end_where_the_next_one_halves(name):
    model = build_model(name, num_classes=5, spec=SPEC)
    maps = model.features(images(1, 3, 65, 65))
    # Stage 1 has the block of stride 1, stage 2 the middle flow.
    assert [x.shape[1:3] for x in maps.values()] == [[6, 17], [8, 9], [12, 5]]


@pytest.mark.parametrize(("name", "kept"), [("Xception41", 0.9), ("Xception41_deeplab", 0.99)])
def test_share_of_the_running_statistics_that_a_step_keeps(name, kept):
    model = build_model(name, num_classes=5, spec=SPEC)
    means = {}
    for norm in model.sublayers():
        if isinstance(norm, BatchNorm):
            norm.register_forward_pre_hook(
                lambda norm, inputs: means.update({norm: inputs[0].mean([0, 2, 3])})
            )
    model(images(2, 3, 64, 64))
    assert len(means) > 20
    for norm, mean in means.items():  # from a running mean of 0
        np.testing.assert_allclose(norm._mean, (1 - kept) * mean, rtol=1e-3, atol=1e-6)


def test_deeplab_drops_single_places():
    model = build_model("Xception41_deeplab", num_classes=5, spec=SPEC)
    seen = []
    model._drop.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    model(images(2, 3, 97, 97))
    assert seen[0].shape == [2, 12, 7, 7]
