"""Weights between formats and namings."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from data_catalog.published import static_names
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.convert import convert
from ppcls_core.models.weights.files import load_state, save_arrays, save_state
from ppcls_core.models.weights.state import state_of

NAME = "MobileNetV3_small_x0_35"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    paddle.seed(3)
    path = tmp_path_factory.mktemp("weights") / "w.pdparams"
    save_state(path, state_of(build_model(NAME)))
    return path


def assert_equal(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, strict=True)


def test_safetensors_and_back(weights, tmp_path):
    assert convert(weights, tmp_path / "w.safetensors").left_out == []
    convert(tmp_path / "w.safetensors", tmp_path / "back.pdparams", NAME)
    assert (tmp_path / "back.pdparams").read_bytes() == weights.read_bytes()


def test_a_folder_under_the_names_of_paddle_1_and_back(weights, tmp_path):
    done = convert(weights, tmp_path / "folder", NAME)
    names = {path.name for path in (tmp_path / "folder").iterdir()}
    assert names == set(static_names()[NAME])
    assert {"conv1_weights", "conv2_expand_bn_mean", "last_1x1_conv_weights", "fc_offset"} <= names
    assert done.num_entries == len(names)
    convert(tmp_path / "folder", tmp_path / "back.pdparams", NAME)
    assert (tmp_path / "back.pdparams").read_bytes() == weights.read_bytes()


def test_a_folder_under_the_names_of_the_state_dict(weights, tmp_path):
    convert(weights, tmp_path / "folder")
    assert (tmp_path / "folder/fc.weight").is_file()
    convert(tmp_path / "folder", tmp_path / "back.pdparams", NAME)
    assert_equal(load_state(tmp_path / "back"), load_state(weights))


@pytest.mark.parametrize("model", [NAME, None])
def test_a_folder_is_pretrained_weights(weights, tmp_path, model):
    convert(weights, tmp_path / "folder", model)
    built = build_model(NAME, pretrained=tmp_path / "folder")
    assert_equal(state_of(built), load_state(weights))


def test_a_tar_is_pretrained_weights(weights, tmp_path, caplog):
    convert(weights, tmp_path / "w_pretrained", NAME)
    velocity = tmp_path / "velocity"
    save_arrays(velocity, {"conv1_weights_velocity_0": np.zeros(3, np.float32)})
    with tarfile.open(tmp_path / "w_pretrained.tar", "w") as archive:
        archive.add(tmp_path / "w_pretrained", "w_pretrained")
        name = "conv1_weights_velocity_0"
        archive.add(velocity / name, f"w_pretrained/{name}")
    shutil.rmtree(tmp_path / "w_pretrained")
    built = build_model(NAME, pretrained=tmp_path / "w_pretrained")  # as PaddleClas names it
    assert_equal(state_of(built), load_state(weights))
    assert "1 entry that is not the model's left out: conv1_weights_velocity_0" in caplog.text


def test_what_is_not_the_model_s_is_left_out_and_told(weights, tmp_path):
    state = {**load_state(weights), "conv1_weights_velocity_0": np.zeros(3, np.float32)}
    save_state(tmp_path / "w.pdparams", state)
    done = convert(tmp_path / "w", tmp_path / "out.pdparams", NAME)
    assert done.left_out == ["conv1_weights_velocity_0"]
    assert_equal(load_state(tmp_path / "out"), load_state(weights))


def test_a_backbone_for_detection(tmp_path):
    save_state(tmp_path / "w.pdparams", state_of(build_model("ResNet18_vd")))
    assert (
        convert(tmp_path / "w", tmp_path / "b.pdparams", "ResNet18_vd", "backbone").left_out == []
    )
    assert "res3.res3a.short.conv.conv.weight" in load_state(tmp_path / "b")


@pytest.mark.slow
def test_an_acnet_for_inference(tmp_path):
    trained = build_model("ResNet50_ACNet")
    save_state(tmp_path / "w.pdparams", state_of(trained))
    convert(tmp_path / "w", tmp_path / "d.pdparams", "ResNet50_ACNet", "deploy")
    deployed = build_model("ResNet50_ACNet_deploy", pretrained=tmp_path / "d")
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32))
    trained.eval()
    deployed.eval()
    with paddle.no_grad():
        want, got = trained(images).numpy(), deployed(images).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("target", ["out.pdparams", "out.safetensors", "out"])
def test_shapes_and_dtypes_are_checked(weights, tmp_path, target):
    state = load_state(weights)
    state["conv.conv.weight"] = state["conv.conv.weight"][:, :1]
    state["fc.weight"] = state["fc.weight"].T
    state["fc.bias"] = state["fc.bias"].astype(np.int64)
    save_state(tmp_path / "w.pdparams", state)
    with pytest.raises(UserError, match=r"w\.pdparams: 3 entries do not fit the model") as caught:
        convert(tmp_path / "w.pdparams", tmp_path / target, NAME)
    assert "conv.conv.weight: got shape [8, 1, 3, 3], expected [8, 3, 3, 3]" in str(caught.value)
    assert "fc.weight: got shape [1000, 1280], expected [1280, 1000]" in str(caught.value)
    assert "fc.bias: got int64, expected float32" in str(caught.value)
    assert not list(tmp_path.glob("out*"))
    convert(tmp_path / "w.pdparams", tmp_path / "as_it_is.pdparams")


def test_a_classifier_of_other_classes_is_converted(tmp_path):
    save_state(tmp_path / "w.pdparams", state_of(build_model(NAME, num_classes=7)))
    assert convert(tmp_path / "w", tmp_path / "folder", NAME).left_out == []
    convert(tmp_path / "folder", tmp_path / "back.pdparams", NAME)
    assert_equal(load_state(tmp_path / "back"), load_state(tmp_path / "w"))


def test_a_folder_that_holds_something_is_refused(weights, tmp_path):
    convert(weights, tmp_path / "folder", NAME)
    before = load_state(tmp_path / "folder")
    with pytest.raises(UserError, match="folder: is there already and is no empty folder"):
        convert(weights, tmp_path / "folder")
    assert_equal(load_state(tmp_path / "folder"), before)


@pytest.mark.slow
def test_an_acnet_in_bfloat16_for_inference(tmp_path):
    """bfloat16 appears as integers, which must not be computed with."""
    state = state_of(build_model("ResNet50_ACNet"))
    bits = {n: (a.view(np.uint32) >> 16).astype(np.uint16) for n, a in state.items()}
    wide = {n: (a.astype(np.uint32) << 16).view(np.float32) for n, a in bits.items()}
    save_state(tmp_path / "bits.pdparams", bits)
    save_state(tmp_path / "wide.pdparams", wide)
    for name in ("bits", "wide"):
        convert(tmp_path / name, tmp_path / f"{name}_d.pdparams", "ResNet50_ACNet", "deploy")
    assert_equal(load_state(tmp_path / "bits_d"), load_state(tmp_path / "wide_d"))


def test_mistakes(weights, tmp_path):
    with pytest.raises(
        UserError, match=r"266 entries do not fit the model: give --model"
    ) as caught:
        convert(weights, tmp_path / "out.pdparams", "ResNet50")
    assert len(str(caught.value).splitlines()) == 12
    assert "\n  stem.0.conv.weight: missing" in str(caught.value)
    with pytest.raises(UserError, match="what a backbone is depends on the model"):
        convert(weights, tmp_path / "out.pdparams", form="backbone")
    save_state(tmp_path / "other.pdparams", state_of(build_model("SqueezeNet1_1")))
    with pytest.raises(UserError, match="PaddleDetection's backbones take the weights of these"):
        convert(tmp_path / "other", tmp_path / "out.pdparams", "SqueezeNet1_1", "backbone")
    with pytest.raises(UserError, match="without `square`"):
        convert(weights, tmp_path / "out.pdparams", NAME, "deploy")
    with pytest.raises(UserError, match=r"expected NAME\.pdparams, NAME\.safetensors, or"):
        convert(weights, tmp_path / "out.onnx")
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "none", tmp_path / "out.pdparams")
    save_state(tmp_path / "epoch.pdparams", {"epoch": 3})
    with pytest.raises(UserError, match=r"takes arrays only, and epoch is none"):
        convert(tmp_path / "epoch", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_every_architecture_has_its_names(golden_shapes):
    names = static_names()
    assert names.keys() == golden_shapes.keys() | {"ResNet50_ACNet", "ResNet50_ACNet_deploy"}
    for name, shapes in golden_shapes.items():
        assert len(set(names[name])) == len(shapes), name


@pytest.mark.slow
def test_an_acnet_under_the_names_of_paddle_1(tmp_path):
    marks = {"ResNet50_ACNet": "acver_weights", "ResNet50_ACNet_deploy": "acsquare_bias"}
    for name, place in marks.items():
        save_state(tmp_path / f"{name}.pdparams", state_of(build_model(name)))
        convert(tmp_path / name, tmp_path / f"{name}-1", name)
        assert (tmp_path / f"{name}-1/res4f_branch2b_{place}").is_file()
        assert not (tmp_path / f"{name}-1/res4f_branch2a_{place}").exists()  # a 1x1 convolution
        again = build_model(name, pretrained=tmp_path / f"{name}-1")
        assert_equal(state_of(again), load_state(tmp_path / name))
