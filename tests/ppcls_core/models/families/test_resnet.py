"""ResNet and its descendants: what neither the goldens nor the tests of all networks show."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import TOLERANCE, export
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.networks import resnet
from ppcls_core.models.networks.acnet import AsymmetricConv, fused_state
from ppcls_core.models.networks.layers import SqueezeExcite
from ppcls_core.models.registry import build_model, spec_of
from ppcls_core.models.weights.state import state_of

TINY = {"width": 8, "depths": [2, 1, 1, 1]}
GROUPS = {**TINY, "cardinality": 4, "group_width": 2}
KINDS = {
    "ResNet18": TINY,
    "ResNet50": TINY,
    "ResNet50_vc": TINY,
    "ResNet50_vd": TINY,
    "ResNet50_ACNet": TINY,
    "ResNet50_ACNet_deploy": TINY,
    "ResNeXt50_32x4d": GROUPS,
    "ResNeXt101_32x8d_wsl": GROUPS,
    "SE_ResNet18_vd": {**TINY, "reduction": 2},
    "SENet154_vd": {**GROUPS, "stem_width": 12, "reduction": 4},
    "Res2Net50_26w_4s": {**TINY, "group_width": 2},
    "Res2Net50_vd_26w_4s": {**TINY, "group_width": 2, "scales": 2},
}
FACTORS = [0.0, 0.1, 0.25, 0.5, 2.0]


def tiny(name, **overrides):
    paddle.seed(7)
    return build_model(name, num_classes=5, spec={**KINDS[name], **overrides})


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def group_of(key):
    """0 for the stem, 1 to 4 for a stage, 5 for the classifier, from the names of the weights."""
    first, second, *_ = key.split(".")
    if first in ("fc", "out", "_out"):
        return 5
    if first == "blocks":
        return [1, 1, 2, 3, 4][int(second)]
    if first.startswith("bb_"):
        return int(first[3]) + 1
    if first.startswith("_conv") and first != "_conv_stem":
        return int(first[5])
    return 0


@pytest.mark.parametrize("name", KINDS)
def test_learning_rate_factors_reach_their_stages(name):
    model = tiny(name, lr_mult_list=FACTORS)
    found = {group: set() for group in range(6)}
    for key, parameter in model.named_parameters():
        if parameter.trainable:
            found[group_of(key)].add(parameter.optimize_attr["learning_rate"])
    assert found == {group: {factor} for group, factor in enumerate([*FACTORS, 1.0])}
    rates = {p.optimize_attr["learning_rate"] for p in tiny(name).parameters()}
    assert rates == {1.0}


@pytest.mark.parametrize("name", ["ResNet50_vd", "SE_ResNet18_vd"])
def test_one_step_moves_parameters_in_proportion(name):
    moves = []
    for factors in ([1.0] * 5, FACTORS):
        model = tiny(name, lr_mult_list=factors)
        before = state_of(model)
        optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
        model(images(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        after = state_of(model)
        moves.append({key: after[key].astype(np.float64) - before[key] for key in after})
    for key, parameter in model.named_parameters():
        if parameter.trainable:
            factor = [*FACTORS, 1.0][group_of(key)]
            scale = np.abs(moves[0][key]).max()
            assert scale > 0, key
            # The weights are rounded to float32 before the difference can be taken.
            np.testing.assert_allclose(
                moves[1][key], factor * moves[0][key], rtol=1e-4, atol=3e-7, err_msg=key
            )


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ResNet50_vd", {"lr_mult_list": [1, 1, 1, 1]}, r"lr_mult_list\.4"),
        ("ResNet50_vd", {"lr_mult_list": [1, -1, 1, 1, 1]}, r"lr_mult_list\.1: .*got -1"),
        ("ResNet18_vd", {"scales": 4}, "scales: only bottleneck blocks have .*got 4"),
        ("ResNet18", {"group_width": 8}, "group_width: only bottleneck blocks have .*got 8"),
        ("ResNeXt50_32x4d", {"bottleneck": False}, "cardinality: only bottleneck .*got 32"),
        ("ResNet50", {"spatial": "square"}, "spatial: .*'fused', got 'square'"),
    ],
)
def test_mistakes_are_named(name, overrides, message):
    with pytest.raises(UserError, match=message):
        spec_of(name, overrides)


@pytest.mark.parametrize("name", KINDS)
def test_features_are_the_stages(name):
    model = tiny(name)
    model.eval()
    maps = model.features(images(1, 3, 64, 97))
    expansion = 4 if spec_of(name).bottleneck else 1
    assert {stage: tuple(x.shape) for stage, x in maps.items()} == {
        "stage1": (1, 8 * expansion, 16, 25),
        "stage2": (1, 16 * expansion, 8, 13),
        "stage3": (1, 32 * expansion, 4, 7),
        "stage4": (1, 64 * expansion, 2, 4),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SENet154_vd", "Res2Net50_vd_26w_4s", "ResNet50_ACNet"])
def test_every_kind_of_block_exports(name, tmp_path):
    sidecar = Sidecar(architecture=name, classes=tuple("abcde"), preprocess=Preprocess(size=64))
    assert export(tiny(name), sidecar, tmp_path) <= TOLERANCE


def test_shortcut_averages_instead_of_skipping():
    """vd: the strided shortcut sees all four places, at odd borders those that exist."""
    block = tiny("ResNet50_vd").blocks[2]
    x = images(2, 32, 3, 3)
    average, conv = block.shortcut
    corner = x[:, :, 2:, 2:]
    np.testing.assert_allclose(average(x)[:, :, 1:, 1:].numpy(), corner.numpy(), rtol=1e-6)
    np.testing.assert_allclose(
        average(x)[:, :, 0, 0].numpy(), x[:, :, :2, :2].mean([2, 3]).numpy(), rtol=1e-5
    )
    assert conv(average(x)).shape == [2, 64, 2, 2]


@pytest.mark.parametrize("name", ["ResNet50", "ResNet50_vc", "ResNeXt101_32x8d_wsl"])
def test_other_shortcuts_are_strided(name):
    block = tiny(name).trunk[2]
    (conv,) = block.shortcut
    x = images(2, 32, 5, 5)
    assert conv(x).shape == [2, 64, 3, 3]
    other = x.clone()
    other[:, :, 1::2] = 0.0
    np.testing.assert_array_equal(conv(other).numpy(), conv(x).numpy())


def test_only_a_stage_s_first_block_projects():
    for name in KINDS:
        blocks = tiny(name).trunk
        assert [block.stride for block in blocks] == [1, 1, 2, 2, 2]
        assert [bool(block.shortcut) for block in blocks] == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("name", "bound"),
    [("ResNeXt50_32x4d", 1 / math.sqrt(256)), ("ResNeXt101_32x8d_wsl", math.sqrt(6 / (256 + 5)))],
)
def test_classifier_starts_uniform(name, bound):
    weight = state_of(tiny(name))[f"{tiny(name).classifiers[0]}.weight"]
    assert 0.98 * bound < np.abs(weight).max() <= bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_squeeze_excite_ends_the_branch_and_narrows():
    for block in tiny("SENet154_vd").trunk:
        gate = block.branch[-1]
        assert isinstance(gate, SqueezeExcite)
        channels, squeezed = gate.squeeze.weight.shape
        assert channels == 4 * squeezed


def test_hierarchical_convolution_chains_its_parts():
    x = images(2, 8, 3, 3)
    parts = x.numpy().reshape(2, 4, 2, 3, 3).swapaxes(0, 1)
    convs = [lambda part, n=n: part * n for n in (2.0, 3.0, 5.0)]
    chained = [2 * parts[0], 3 * (parts[1] + 2 * parts[0])]
    chained += [5 * (parts[2] + chained[1]), parts[3]]
    got = resnet._hierarchical(convs, 1, x)
    np.testing.assert_allclose(got.numpy(), np.concatenate(chained, axis=1), rtol=1e-5)


def test_hierarchical_convolution_that_halves_does_not_chain():
    x = images(2, 6, 3, 3)
    first, second, last = x.numpy().reshape(2, 3, 2, 3, 3).swapaxes(0, 1)
    convs = [lambda part, n=n: part[:, :, ::2, ::2] * n for n in (2.0, 3.0)]
    got = resnet._hierarchical(convs, 2, x).numpy()
    np.testing.assert_allclose(got[:, :2], 2 * first[:, :, ::2, ::2], rtol=1e-6)
    np.testing.assert_allclose(got[:, 2:4], 3 * second[:, :, ::2, ::2], rtol=1e-6)
    corner = last[:, :, :2, :2].mean((2, 3))  # the padding does not count
    np.testing.assert_allclose(got[:, 4:, 0, 0], corner, rtol=1e-5)


def test_acnet_has_three_branches_wherever_a_kernel_is_wider_than_one():
    with paddle.LazyGuard():
        model = build_model("ResNet50_ACNet")
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    stem = {
        branch: shapes[f"stem.0.{branch}.conv.weight"][2:]
        for branch in ("square", "vertical", "horizontal")
    }
    assert stem == {"square": [7, 7], "vertical": [7, 1], "horizontal": [1, 7]}
    assert sum(isinstance(layer, AsymmetricConv) for layer in model.sublayers()) == 17
    assert [shape for key, shape in shapes.items() if "blocks.0.conv0.conv" in key] == [
        [64, 64, 1, 1]
    ]


def test_acnet_s_deploy_form_has_the_published_number_of_parameters():
    with paddle.LazyGuard():
        model = build_model("ResNet50_ACNet_deploy")
    count = sum(p.size for p in model.parameters() if p.trainable)
    assert count / 1e6 == pytest.approx(25.55, abs=0.005)


@pytest.mark.parametrize(
    "overrides", [{}, {"bottleneck": False}, {"cardinality": 2}, {"scales": 2}, {"reduction": 4}]
)
def test_fused_acnet_puts_out_the_same(overrides, filler):
    trained, deployed = (
        tiny("ResNet50_ACNet", **overrides),
        tiny("ResNet50_ACNet_deploy", **overrides),
    )
    for key, tensor in trained.state_dict().items():
        tensor.set_value(filler.fill(key, tuple(tensor.shape)))
    fused = fused_state(state_of(trained))
    assert list(fused) == list(deployed.state_dict())
    for key, tensor in deployed.state_dict().items():
        tensor.set_value(fused[key])
    trained.eval()
    deployed.eval()
    for size in ((64, 64), (71, 97)):
        want, got = trained(images(2, 3, *size)).numpy(), deployed(images(2, 3, *size)).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["ResNet50", "ResNet50_ACNet_deploy"])
def test_only_the_training_form_can_be_fused(name):
    with pytest.raises(UserError, match="expected those of an ACNet in its training form"):
        fused_state(state_of(tiny(name)))
