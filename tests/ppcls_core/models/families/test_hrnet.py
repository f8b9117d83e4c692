"""HRNet: its branches, and the exchange at sizes that PaddleClas refuses."""

from __future__ import annotations

import numpy as np
import paddle

from ppcls_core.models.networks.hrnet import Fuse
from ppcls_core.models.registry import build_model

SPEC = {
    "width": 2,
    "modules": [1, 1, 1],
    "depth": 1,
    "stem_width": 4,
    "head_width": 2,
    "feature_width": 16,
}


def test_stages_are_the_four_branches():
    model = build_model("HRNet_W18_C", num_classes=5, spec=SPEC)
    maps = model.features(paddle.zeros([1, 3, 65, 96]))
    assert {name: x.shape for name, x in maps.items()} == {
        "stage1": [1, 2, 17, 24],
        "stage2": [1, 4, 9, 12],
        "stage3": [1, 8, 5, 6],
        "stage4": [1, 16, 3, 3],
    }


def test_a_lower_branch_s_place_covers_two_by_two_places():
    """Also at an odd size, where the last one covers what is left."""
    fuse = Fuse([1, 1])
    fuse.eval()
    up = fuse.paths[0, 1][0]
    up.conv.weight.set_value(np.ones((1, 1, 1, 1), np.float32))
    low = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3)
    high, _ = fuse([paddle.zeros([1, 1, 3, 5]), paddle.to_tensor(low)])
    want = [[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]
    np.testing.assert_allclose(high.numpy()[0, 0], want, rtol=1e-4)
