"""Weights between formats and namings."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from data_catalog.config import UserError
from data_catalog.published import static_names
from ppcls_core.models.convert import convert
from ppcls_core.models.registry import build_model
from ppcls_core.models.weight_files import load_state, save_state
from ppcls_core.models.weights import state_of

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


def test_mistakes(weights, tmp_path):
    with pytest.raises(UserError, match=r"267 entries of ResNet50 are missing, .*holds conv\.conv"):
        convert(weights, tmp_path / "out.pdparams", "ResNet50")
    with pytest.raises(UserError, match="what a backbone is depends on the model"):
        convert(weights, tmp_path / "out.pdparams", form="backbone")
    with pytest.raises(UserError, match="PaddleDetection's ResNet takes the weights of these"):
        convert(weights, tmp_path / "out.pdparams", NAME, "backbone")
    with pytest.raises(UserError, match="without `square`"):
        convert(weights, tmp_path / "out.pdparams", NAME, "deploy")
    with pytest.raises(UserError, match=r"expected \.pdparams, \.safetensors, or a folder"):
        convert(weights, tmp_path / "out.onnx")
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "none", tmp_path / "out.pdparams")
    save_state(tmp_path / "epoch.pdparams", {"epoch": 3})
    with pytest.raises(UserError, match=r"takes arrays only, and epoch is none"):
        convert(tmp_path / "epoch", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_every_architecture_has_its_names(golden_shapes):
    names = static_names()
    assert names.keys() == golden_shapes.keys()
    for name, shapes in golden_shapes.items():
        assert len(set(names[name])) == len(shapes), name
