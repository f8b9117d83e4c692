"""The exported model is the network, and the export notices when it is not."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml

from ppcls_core.data.transforms import Preprocess
from ppcls_core.deploy.export import FILES, TOLERANCE, export
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import state_of

CLASSES = ["tench", "großer weißer Hai", "yes: no", "12"]


def network(seed=0):
    paddle.seed(seed)
    model = build_model("ResNet18_vd", num_classes=4, spec={"depths": [1, 1, 1, 1], "width": 4})
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():  # statistics as after a training
        if name.endswith("_mean"):
            tensor.set_value(rng.normal(0, 0.1, tensor.shape).astype(np.float32))
        if name.endswith("_variance"):
            tensor.set_value(rng.uniform(0.5, 2, tensor.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(directory, network, state before, deviation)"""
    directory, model = tmp_path_factory.mktemp("exported"), network()
    before = state_of(model)
    return directory, model, before, export(model, CLASSES, Preprocess(size=48), directory)


def images_of(num):
    return np.random.default_rng(num).normal(0, 1.5, (num, 3, 48, 48)).astype(np.float32)


def logits_of(model, images):
    with paddle.no_grad():
        return model(paddle.to_tensor(images)).numpy()


def assert_close(got, want):
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("num", [1, 3])
def test_logits_equal_the_networks(exported, num):
    directory, model, _, deviation = exported
    loaded = paddle.jit.load(str(directory / "inference"))
    assert_close(logits_of(loaded, images_of(num)), logits_of(model, images_of(num)))
    assert 0 <= deviation <= TOLERANCE


ENGINE = """
import sys
import numpy as np
from paddle import inference

config = inference.Config("inference.json", "inference.pdiparams")
config.disable_glog_info()
predictor = inference.create_predictor(config)
assert predictor.get_input_names() == ["image"]
for num in (1, 3):
    predictor.get_input_handle("image").copy_from_cpu(np.load(f"{sys.argv[1]}/{num}.npy"))
    predictor.run()
    output = predictor.get_output_handle(predictor.get_output_names()[0])
    np.save(f"{sys.argv[1]}/logits{num}.npy", output.copy_to_cpu())
"""


def test_inference_engine_gives_the_networks_logits(exported, tmp_path):
    # In a process of its own: the engine leaves its process with another number of threads.
    directory, model, _, _ = exported
    for num in (1, 3):
        np.save(tmp_path / f"{num}.npy", images_of(num))
    code = [sys.executable, "-c", ENGINE, str(tmp_path)]
    subprocess.run(code, cwd=directory, check=True, capture_output=True)
    for num in (1, 3):
        got, want = np.load(tmp_path / f"logits{num}.npy"), logits_of(model, images_of(num))
        assert got.shape == want.shape
        # The engine fuses convolution and batch norm, which rounds otherwise.
        assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


def test_the_files_are_those_that_are_named(exported):
    assert sorted(path.name for path in exported[0].iterdir()) == sorted(FILES)


def test_sidecar_says_how_to_use_the_model(exported):
    assert yaml.safe_load((exported[0] / "inference.yml").read_text(encoding="utf-8")) == {
        "classes": CLASSES,
        "image_size": 48,
        "resize_short": 55,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "channels": "RGB",
    }


def test_the_network_keeps_its_weights_and_can_go_on(exported):
    _, model, before, _ = exported
    after = state_of(model)
    assert {n: v.tobytes() for n, v in after.items()} == {n: v.tobytes() for n, v in before.items()}
    model.train()
    model(paddle.zeros([2, 3, 64, 64])).sum().backward()
    assert model.fc.weight.grad is not None
    model.clear_gradients()
    model.eval()
    model.set_state_dict(before)


def test_equal_networks_give_equal_bytes(exported, tmp_path):
    export(network(), CLASSES, Preprocess(size=48), tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (exported[0] / name).read_bytes(), name


@pytest.mark.parametrize("error", [2 * TOLERANCE, float("nan")])
def test_an_export_that_deviates_is_an_error(tmp_path, monkeypatch, error):
    load = paddle.jit.load

    def load_deviating(path):
        model = load(path)
        return lambda images: (z := model(images)) + error * z.abs().max() * (z == z.max())

    monkeypatch.setattr(paddle.jit, "load", load_deviating)
    with pytest.raises(RuntimeError, match=r"exported logits deviate by ([12]\.\d+e-04|nan)"):
        export(network(), CLASSES, Preprocess(size=48), tmp_path)
