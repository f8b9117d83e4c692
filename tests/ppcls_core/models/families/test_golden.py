"""Every architecture against PaddleClas: state-dict entries, logits, parameters, operations."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import paddle
import pytest

from data_catalog.published import published_weights
from ppcls_core.models.complexity import count_operations, count_parameters
from ppcls_core.models.registry import build_model, known_models
from tests.conftest import others_slow
from tests.ppcls_core.models.families.test_networks import FAMILIES, QUICK

LITE = {"EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2"}  # have a test of their own
WITHOUT_GOLDEN = {"ResNet50_ACNet", "ResNet50_ACNet_deploy", *LITE}
# Architectures without a row in the table of published weights: trainable parameters of
# PaddleClas's own networks, as its wheel 2.2.1 builds them; CSPResNet50, which no wheel has, as
# its static program of 2020 does (ppcls/modeling/architectures/csp_resnet.py at 04e9720).
PARAMETERS = {
    "CSPResNet50_leaky": 21_616_296,
    "InceptionV3": 23_834_568,
    "RegNetX_4GF": 22_156_280,
    "ResNeSt101": 48_254_696,
    "ResNeSt50": 27_473_800,
    "ResNeSt50_fast_1s1x64d": 26_213_128,
}
GOLDEN = [name for name in known_models() if name not in WITHOUT_GOLDEN]
PUBLISHED = [name for name in known_models() if name not in {"ResNet50_ACNet", *PARAMETERS}]


@cache
def built(name: str) -> tuple[list[tuple[str, list[int]]], int]:
    """(names and shapes of its entries, number of parameters) of the model `name`."""
    model = lazy(name)
    entries = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    return entries, count_parameters(model)


def lazy(name: str) -> paddle.nn.Layer:
    """The model without values: made in 0.1 s, where random ones for the largest take 24."""
    with paddle.LazyGuard():
        return build_model(name)


def test_every_published_architecture_is_known(golden):
    assert set(golden) == set(GOLDEN)


@pytest.mark.parametrize("name", others_slow(GOLDEN, FAMILIES))
def test_state_dict_has_the_published_entries(name, golden_shapes):
    assert built(name)[0] == list(golden_shapes[name].items())


@pytest.mark.parametrize("name", others_slow(PUBLISHED, FAMILIES))
def test_number_of_parameters_is_the_published_one(name):
    row = published_weights()[name]
    assert row.mparams
    deviation = built(name)[1] / 1e6 / row.mparams - 1
    assert (abs(deviation) > 0.005) == ("params" in row.errata), f"{name}: {deviation:+.2%}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters_is_paddleclas_s(name):
    assert built(name)[1] == PARAMETERS[name]


@pytest.mark.parametrize("name", others_slow(GOLDEN, QUICK))
def test_logits_and_operations_are_the_published_ones(name, golden, filler):
    model = lazy(name)
    model.eval()
    for key, tensor in model.state_dict().items():
        tensor.set_value(filler.fill(key, tuple(tensor.shape)))
    if name not in PARAMETERS:
        row = published_weights()[name]
        assert row.gflops
        deviation = count_operations(model, row.crop) / 1e9 / row.gflops - 1
        assert (abs(deviation) > 0.03) == ("operations" in row.errata), f"{name}: {deviation:+.2%}"
    check_logits(model, golden[name], filler)


def check_logits(model: paddle.nn.Layer, want: dict, filler: ModuleType) -> None:
    dtype = want.get("dtype", "float32")
    model.to(dtype=dtype)
    with paddle.no_grad():
        images = paddle.to_tensor(filler.golden_input(want["size"])).astype(dtype)
        logits = model(images).numpy()[0]
    assert logits.argmax() == want["argmax"]
    assert np.abs(logits).max() == pytest.approx(want["scale"], rel=2e-3)
    np.testing.assert_allclose(
        logits[:16] / want["scale"], np.array(want["logits"]) / want["scale"], rtol=0, atol=2e-3
    )
