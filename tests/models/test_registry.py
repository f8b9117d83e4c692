from __future__ import annotations

import subprocess
import sys

import numpy as np
import paddle
import pytest

from data_catalog.config import UserError
from ppcls_core.models.registry import build_model, classifier_parameters, known_models, spec_of
from ppcls_core.models.specs import mobilenet_v3, resnet_vd, resnext101_wsl
from ppcls_core.models.weights import save_state, state_of

TINY = {"width": 8, "depths": [1, 1, 1, 1]}


def test_names_and_specs_need_no_paddle():
    code = (
        "import sys; from ppcls_core.models.registry import known_models, spec_of;"
        "assert [spec_of(name) for name in known_models()];"
        "sys.exit('paddle' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_no_two_families_share_a_name():
    families = (resnet_vd.VARIANTS, mobilenet_v3.VARIANTS, resnext101_wsl.VARIANTS)
    assert len(known_models()) == sum(map(len, families)) == 20


def test_a_spec_s_fields_can_be_overridden():
    spec = spec_of("ResNet50_vd", {"depths": [1, 2, 1, 1], "width": 16})
    assert spec.model_dump() == {"depths": (1, 2, 1, 1), "bottleneck": True, "width": 16}
    assert spec_of("ResNet50_vd").model_dump()["width"] == 64


def test_mobilenet_blocks_can_be_written_as_lists():
    model = build_model(
        "MobileNetV3_small_x1_0",
        num_classes=5,
        spec={"blocks": [[3, 16, 16, True, "relu", 2], [5, 64, 24, False, "hardswish", 1]]},
    )
    assert len(model.blocks) == 2
    assert model.blocks[0].mid_se is not None
    assert model.blocks[1].mid_se is None


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ResNet50vd", {}, "unknown model 'ResNet50vd'; did you mean 'ResNet50_vd'"),
        ("transformer", {}, "unknown model 'transformer'; known: MobileNetV3_large_x0_35, "),
        ("ResNet50_vd", {"widht": 8}, "ResNet50_vd: unknown setting 'widht'; did you mean 'width'"),
        ("ResNet50_vd", {"width": 7}, "ResNet50_vd: width: .*multiple of 2, got 7"),
        ("ResNet50_vd", {"depths": [1, 1, 1]}, "depths.3"),
        ("ResNet50_vd", {"depths": [1, 1, 0, 1]}, "depths.2: .*greater than 0, got 0"),
        ("MobileNetV3_small_x1_0", {"dropout": 1.0}, "dropout: .*less than 1, got 1.0"),
        ("MobileNetV3_small_x1_0", {"blocks": []}, "blocks: at least one block"),
        (
            "MobileNetV3_small_x1_0",
            {"blocks": [[3, 8, 8, True, "gelu", 1]]},
            "blocks.0.4: .*'hardswish', got 'gelu'$",
        ),
    ],
)
def test_mistakes_are_named(name, overrides, message):
    with pytest.raises(UserError, match=message):
        spec_of(name, overrides)


@pytest.mark.parametrize("num_classes", [0, -1, 100_001])
def test_number_of_classes_is_checked(num_classes):
    with pytest.raises(UserError, match=f"got {num_classes} classes, expected 1 to 100,000"):
        build_model("ResNet18_vd", num_classes=num_classes, spec=TINY)


def test_a_hundred_thousand_classes():
    model = build_model("ResNet18_vd", num_classes=100_000, spec=TINY)
    model.eval()
    assert model(paddle.zeros([1, 3, 64, 64])).shape == [1, 100_000]


@pytest.mark.parametrize("name", known_models())
def test_classifier_parameters_are_weight_and_bias(name):
    with paddle.LazyGuard():
        model = build_model(name, num_classes=7)
    weight, bias = classifier_parameters(model)
    assert weight.shape[1] == 7
    assert bias.shape == [7]


def test_pretrained_weights_are_loaded_strictly(tmp_path):
    paddle.seed(1)
    trained = build_model("ResNet18_vd", num_classes=4, spec=TINY)
    save_state(tmp_path / "w.pdparams", state_of(trained))
    again = build_model("ResNet18_vd", num_classes=4, spec=TINY, pretrained=tmp_path / "w")
    for name, array in state_of(trained).items():
        np.testing.assert_array_equal(state_of(again)[name], array)
    with pytest.raises(UserError, match=r"fc\.weight: got shape"):
        build_model("ResNet18_vd", num_classes=5, spec=TINY, pretrained=tmp_path / "w")


def test_equal_seeds_give_equal_weights():
    states = []
    for seed in (3, 3, 4):
        paddle.seed(seed)
        states.append(state_of(build_model("ResNet18_vd", num_classes=4, spec=TINY)))
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not np.array_equal(states[0]["fc.weight"], states[2]["fc.weight"])


def test_parameter_names_do_not_depend_on_models_built_before():
    """An optimizer's state is keyed by them, and a resumed run may build another model first."""
    names = [
        [p.name for p in build_model("ResNet18_vd", num_classes=4, spec=TINY).parameters()]
        for _ in range(2)
    ]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])
