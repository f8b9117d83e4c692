"""SqueezeNet: the place of its dropout, and the stem's padding."""

from __future__ import annotations

import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.models.registry import build_model, spec_of

SPEC = {"stem_width": 8, "squeezed": [[1], [1], [2]]}


def test_the_classifier_sees_places_with_some_values_dropped():
    model = build_model("SqueezeNet1_1", num_classes=3, spec=SPEC)
    seen = []
    model._drop.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    model._conv9.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model(paddle.ones([1, 3, 64, 64]))
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert seen[0].shape == [1, 16, 3, 3]


@pytest.mark.parametrize(("name", "sizes"), [("1_0", [29, 14, 6, 2]), ("1_1", [32, 15, 7, 3])])
def test_sizes_of_the_maps(name, sizes):
    model = build_model(f"SqueezeNet{name}", num_classes=3, spec=SPEC)
    maps = model.features(paddle.zeros([1, 3, 64, 64]))
    assert [x.shape[2] for x in maps.values()] == sizes


def test_the_classifier_s_name_is_not_a_module_s():
    with pytest.raises(UserError, match="squeezed: at most eight modules"):
        spec_of("SqueezeNet1_0", {"squeezed": [[1, 1, 1], [1, 1, 1], [1, 1, 1]]})
