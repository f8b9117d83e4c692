"""Every variant against PaddleClas: state-dict entries, numbers of parameters, logits."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppcls_core.models.registry import build_model, known_models

GIANTS = {
    "ResNet200_vd",
    "ResNeXt101_32x16d_wsl",
    "ResNeXt101_32x32d_wsl",
    "ResNeXt101_32x48d_wsl",
}
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in GIANTS else ()) for name in known_models()
]


def lazy(name: str) -> paddle.nn.Layer:
    """The model without values: made in 0.1 s, where random ones for the largest take 24."""
    with paddle.LazyGuard():
        return build_model(name)


@pytest.mark.parametrize("name", known_models())
def test_state_dict_has_the_published_entries(name, golden_shapes):
    model = lazy(name)
    shapes = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert shapes == list(golden_shapes[name].items())


@pytest.mark.parametrize("name", known_models())
def test_number_of_parameters_is_the_published_one(name, golden):
    model = lazy(name)
    # Paddle counts a batch norm's running statistics among the parameters, untrainable ones.
    count = sum(math.prod(p.shape) for p in model.parameters() if p.trainable)
    assert count / 1e6 == pytest.approx(golden[name]["params_m"], rel=0.005)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_paddleclas_s(name, golden, filler):
    want = golden[name]
    model = lazy(name)
    model.eval()
    for key, tensor in model.state_dict().items():
        tensor.set_value(filler.fill(key, tuple(tensor.shape)))
    with paddle.no_grad():
        logits = model(paddle.to_tensor(filler.golden_input(want["size"]))).numpy()[0]
    assert logits.argmax() == want["argmax"]
    assert np.abs(logits).max() == pytest.approx(want["scale"], rel=2e-3)
    np.testing.assert_allclose(
        logits[:16] / want["scale"], np.array(want["logits"]) / want["scale"], rtol=0, atol=2e-3
    )


def test_every_golden_model_is_known(golden):
    assert sorted(golden) == sorted(known_models())
