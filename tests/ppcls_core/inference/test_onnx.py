"""The exported model as ONNX, and for Paddle Serving."""

from __future__ import annotations

import importlib.util

import numpy as np
import paddle
import pytest
from google.protobuf import text_format

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference import onnx
from ppcls_core.inference.export import deviation, export, random_pixels
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.paddle_serving import _message_class, export_serving
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.registry import build_model

SIDECAR = Sidecar(architecture="any", classes=("a", "b", "c"), preprocess=Preprocess(size=64))
SPECS = {
    "ResNet18_vd": {"depths": [1, 1, 1, 1], "width": 4},
    "CSPResNet50_leaky": {"depths": [2, 1, 1, 1], "width": 4},
}


def network(name="ResNet18_vd"):
    paddle.seed(0)
    model = build_model(name, num_classes=3, spec=SPECS[name])
    model.eval()
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export(network(), SIDECAR, folder)
    return Exported(folder)


def test_any_batch_gives_the_network_s_logits(exported):
    assert onnx.export_onnx(network(), exported) <= onnx.TOLERANCE
    predict = onnx.open_onnx(exported, 1)
    for num in (1, 5):
        pixels = np.random.default_rng(num).integers(0, 256, (num, 3, 64, 64), np.uint8)
        got, want = predict(pixels), predict_logits(network(), pixels)
        assert got.shape == (num, 3)
        assert deviation(got, want) <= onnx.TOLERANCE


@pytest.mark.slow
def test_what_the_converter_does_wrong_is_noticed(tmp_path):
    model = network("CSPResNet50_leaky")  # paddle2onnx 2.1 gives all leaky ReLUs the same slope
    export(model, SIDECAR, tmp_path)
    with pytest.raises(UserError, match=r"its logits deviate by .* this model has no ONNX"):
        onnx.export_onnx(model, Exported(tmp_path))
    assert not (tmp_path / onnx.ONNX).exists()


@pytest.mark.slow
def test_a_converter_that_fails_is_told_of(exported, tmp_path):
    for name in ("inference.json", "inference.pdiparams"):
        (tmp_path / name).write_bytes((exported.directory / name).read_bytes()[:1000])
    with pytest.raises(UserError, match="paddle2onnx cannot convert this model"):
        onnx.convert(tmp_path)
    (tmp_path / onnx.ONNX).write_bytes(b"no model")
    with pytest.raises(UserError, match="is no ONNX file"):
        onnx.open_session(tmp_path / onnx.ONNX, 1)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx, "find_spec", lambda n: None if n == "onnxruntime" else find(n))
    with pytest.raises(UserError, match=r"needs onnxruntime, not installed: pip install 'ssld\["):
        onnx.convert(tmp_path)


def test_the_folders_for_paddle_serving(tmp_path):
    assert export_serving(network(), SIDECAR, tmp_path) <= 1e-4
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "serving_client/serving_client_conf.prototxt",
        "serving_client/serving_client_conf.stream.prototxt",
        "serving_client/sidecar.json",
        "serving_server/model.pdiparams",
        "serving_server/model.pdmodel",
        "serving_server/serving_server_conf.prototxt",
        "serving_server/serving_server_conf.stream.prototxt",
    ]
    server = tmp_path / "serving_server"
    text = (server / "serving_server_conf.prototxt").read_text()
    message = text_format.Parse(text, _message_class()())
    assert message.SerializeToString() == (
        (server / "serving_server_conf.stream.prototxt").read_bytes()
    )
    (feed,), (fetch,) = message.feed_var, message.fetch_var
    assert (feed.name, feed.alias_name, list(feed.shape)) == ("image", "image", [3, 64, 64])
    assert (fetch.alias_name, list(fetch.shape), fetch.fetch_type) == ("logits", [3], 1)
    assert fetch.name.encode() in (server / "model.pdmodel").read_bytes()


@pytest.mark.slow
def test_paddle_goes_on_as_before_an_export_for_serving(tmp_path):
    pixels, model = random_pixels(64), network()
    want = predict_logits(model, pixels)
    export_serving(model, SIDECAR, tmp_path)
    assert paddle.in_dynamic_mode()
    assert export(model, SIDECAR, tmp_path) <= 1e-4  # in Paddle 3's format again
    np.testing.assert_array_equal(predict_logits(model, pixels), want)
