"""GoogLeNet: the auxiliary classifiers, which the goldens do not show."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_core.models.registry import build_model

ROW = [4, 2, 4, 2, 4, 4]
SPEC = {"blocks": [ROW] * 9, "stem_widths": [4, 8], "auxiliary_widths": [4, 8]}


def tiny():
    paddle.seed(7)
    return build_model("GoogLeNet", num_classes=5, spec=SPEC)


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("size", [45, 64, 224])
def test_training_gives_three_logits_and_evaluation_the_first(size):
    model = tiny()
    batch = images(2, 3, size, size)
    assert [logits.shape for logits in model(batch)] == [[2, 5]] * 3
    model.eval()
    assert model(batch).shape == [2, 5]


def test_auxiliary_classifiers_see_4a_and_4d():
    """A block gets a gradient from the classifiers after it alone."""
    model = tiny()
    reached = []
    for logits in model(images(2, 3, 64, 64)):
        model.clear_gradients(set_to_zero=False)
        logits.sum().backward(retain_graph=True)
        names = ["_ince4a", "_ince4b", "_ince4d", "_ince4e", "_ince5b"]
        reached.append(
            [getattr(model, name)._conv1._conv.weight.grad is not None for name in names]
        )
    assert reached == [[True] * 5, [True] + [False] * 4, [True, True, True, False, False]]


def test_only_the_first_auxiliary_classifier_has_a_relu():
    model = tiny()
    seen = []
    model._drop_auxiliary.register_forward_pre_hook(
        lambda layer, inputs: seen.append(float(inputs[0].min()))
    )
    model(images(8, 3, 64, 64))
    assert seen[0] == 0
    assert seen[1] < 0
