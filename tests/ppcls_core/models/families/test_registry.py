from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from data_catalog.published import published_weights
from ppcls_core.models import specs
from ppcls_core.models.registry import (
    FAMILIES,
    ModelConfig,
    build_model,
    check_image_size,
    classifier_parameters,
    known_models,
    merged,
    num_classes_of,
    spec_of,
)
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from tests.conftest import others_slow
from tests.ppcls_core.models.families.test_networks import QUICK

TINY = {"width": 8, "depths": [1, 1, 1, 1]}
SMALL: dict[str, dict[str, object]] = {}


def test_names_and_specs_need_no_paddle():
    code = (
        "import sys; from ppcls_core.models.registry import known_models, spec_of;"
        "assert [spec_of(name) for name in known_models()];"
        "sys.exit('paddle' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0


def test_every_family_is_known():
    modules = [f"{specs.__name__}.{module.name}" for module in pkgutil.iter_modules(specs.__path__)]
    assert all(import_module(name).VARIANTS in FAMILIES for name in modules)
    assert len(FAMILIES) == len(modules)
    assert len(known_models()) == sum(map(len, FAMILIES))


def test_a_name_of_two_families_is_an_error():
    with pytest.raises(ValueError, match="of two families: VGG16"):
        merged([*FAMILIES, {"VGG16": spec_of("VGG11"), "mine": spec_of("VGG11")}])


def test_a_spec_s_fields_can_be_overridden():
    spec = spec_of("ResNet50_vd", {"depths": [1, 2, 1, 1], "width": 16})
    published = spec_of("ResNet50_vd").model_dump()
    assert published["width"] == 64
    assert spec.model_dump() == {**published, "depths": (1, 2, 1, 1), "width": 16}


def test_mobilenet_blocks_can_be_written_as_lists():
    model = build_model(
        "MobileNetV3_small_x1_0",
        num_classes=5,
        spec={"blocks": [[3, 16, 16, True, "relu", 2], [5, 64, 24, False, "hardswish", 1]]},
    )
    assert len(model.blocks) == 2
    assert hasattr(model.blocks[0], "mid_se")
    assert not hasattr(model.blocks[1], "mid_se")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ResNet50vd", {}, "unknown model 'ResNet50vd'; did you mean 'ResNet50_vd'"),
        ("transformer", {}, "unknown model 'transformer'; `ppcls models` lists them"),
        ("ResNet50_vd", {"widht": 8}, "ResNet50_vd: unknown setting 'widht'; did you mean 'width'"),
        ("ResNet50_vd", {"width": 7}, "ResNet50_vd: width: .*multiple of 2, got 7"),
        ("ResNet50_vd", {"depths": [1, 1, 1]}, "depths.3"),
        ("ResNet50_vd", {"depths": [1, 1, 0, 1]}, "depths.2: .*greater than 0, got 0"),
        ("RegNetX_4GF", {"group_width": 48}, "widths: expected multiples of group_width, 48, got"),
        ("ResNeSt50", {"radix": 3}, "width: expected a multiple of radix, 3, got 64"),
        ("MobileNetV3_small_x1_0", {"dropout": 1.0}, "dropout: .*less than 1, got 1.0"),
        ("MobileNetV3_small_x1_0", {"blocks": []}, r"blocks: at least one is needed, got \[\]"),
        ("Xception41", {"entry": []}, "entry: at least one is needed"),
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


def test_images_too_small_for_the_network_are_refused():
    check_image_size(ModelConfig(name="InceptionV4"), 75)
    with pytest.raises(UserError, match="got images of 74 pixels, expected at least 75"):
        check_image_size(ModelConfig(name="InceptionV4"), 74)


@pytest.mark.parametrize("num_classes", [0, -1, 100_001])
def test_number_of_classes_is_checked(num_classes):
    with pytest.raises(UserError, match=f"got {num_classes:,} classes, expected 1 to 100,000"):
        build_model("ResNet18_vd", num_classes=num_classes, spec=TINY)


def test_a_hundred_thousand_classes():
    model = build_model("ResNet18_vd", num_classes=100_000, spec=TINY)
    model.eval()
    assert model(paddle.zeros([1, 3, 64, 64])).shape == [1, 100_000]


@pytest.mark.parametrize("name", others_slow(known_models(), QUICK))
def test_the_classifiers_are_as_wide_as_the_classes(name):
    with paddle.LazyGuard():
        model = build_model(name, num_classes=7)
        other = build_model(name, num_classes=5)
    assert num_classes_of(model) == 7
    assert len(classifier_parameters(model)) == 2
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    differing = {key for (key, a), (_, b) in pairs if a.shape != b.shape}
    assert differing == {f"{c}.{leaf}" for c in model.classifiers for leaf in ("weight", "bias")}


@pytest.fixture
def trained(tmp_path):
    paddle.seed(1)
    model = build_model("ResNet18_vd", num_classes=4, spec=TINY)
    save_state(tmp_path / "w.pdparams", state_of(model))
    return model, tmp_path / "w"


@pytest.mark.parametrize("suffix", ["", ".pdparams"])
def test_pretrained_weights_of_a_path(trained, suffix, caplog):
    model, path = trained
    again = build_model("ResNet18_vd", num_classes=4, spec=TINY, pretrained=f"{path}{suffix}")
    for name, array in state_of(model).items():
        np.testing.assert_array_equal(state_of(again)[name], array)
    assert not caplog.records


def test_weights_for_other_classes_fill_all_but_the_classifier_and_say_so(trained, caplog):
    model, path = trained
    other = build_model("ResNet18_vd", num_classes=5, spec=TINY, pretrained=path)
    got, want = state_of(other), state_of(model)
    assert got["fc.weight"].shape == (64, 5)
    for name in want.keys() - {"fc.weight", "fc.bias"}:
        np.testing.assert_array_equal(got[name], want[name])
    assert "the weights are for 4 classes, the model has 5; fc.weight and fc.bias" in caplog.text


def test_weights_of_another_network_are_refused(trained):
    with pytest.raises(UserError, match=r"entries do not fit the model: check .*\n  .*: missing"):
        build_model("ResNet50_vd", num_classes=4, spec=TINY, pretrained=trained[1])


@pytest.mark.parametrize("name", ["SqueezeNet1_0", "GoogLeNet"])
def test_other_classes_where_the_classifier_is_a_convolution_or_one_of_three(name, tmp_path):
    model = build_model(name, num_classes=3, spec=SMALL.get(name))
    save_state(tmp_path / "w.pdparams", state_of(model))
    other = build_model(name, num_classes=4, spec=SMALL.get(name), pretrained=tmp_path / "w")
    assert num_classes_of(other) == 4


def test_published_weights_are_found_where_they_were_put(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLD_HOME", str(tmp_path))
    model = build_model("MobileNetV3_small_x0_35")
    path = tmp_path / "weights/MobileNetV3_small_x0_35_ssld_pretrained.pdparams"
    save_state(path, state_of(model))
    again = build_model("MobileNetV3_small_x0_35_ssld", pretrained=True)
    np.testing.assert_array_equal(state_of(again)["fc.weight"], state_of(model)["fc.weight"])


def test_weights_that_were_never_published():
    with pytest.raises(UserError, match=r"no weights are published as 'ResNet50_ACNet': give a"):
        build_model("ResNet50_ACNet", pretrained=True)


def test_every_published_name_is_an_architecture():
    for name, row in published_weights().items():
        assert spec_of(name) == spec_of(row.arch), name


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
