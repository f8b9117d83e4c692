"""The exported model is the network, and the export notices when it is not."""

import json
import subprocess
import sys

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import TOLERANCE, export
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.outputs import check_folder
from ppcls_core.inference.sidecar import FILES, Sidecar
from ppcls_core.models.networks.layers import Network, normalize
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of

CLASSES = ("tench", "großer weißer Hai", "yes: no", "12")
SIDECAR = Sidecar(architecture="ResNet18_vd", classes=CLASSES, preprocess=Preprocess(size=48))


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
    return directory, model, before, export(model, SIDECAR, directory)


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
    found = json.loads((exported[0] / "sidecar.json").read_text(encoding="utf-8"))
    assert len(found.pop("digest")) == 64
    assert found == {
        "architecture": "ResNet18_vd",
        "classes": list(CLASSES),
        "preprocess": {"size": 48, "short": 55, "interpolation": None},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_pixels_are_normalised_as_in_training():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    got = SIDECAR.normalized(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, normalize(pixels, Network()).numpy(), rtol=0, atol=1e-6)


def copied(exported, folder):
    for name in FILES:
        (folder / name).write_bytes((exported[0] / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_a_file_is_refused(exported, tmp_path, name):
    (copied(exported, tmp_path) / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        Exported(tmp_path)


def test_weights_of_another_network_are_refused(exported, tmp_path):
    # Of equal shapes: Paddle would take them.
    export(network(1), SIDECAR, tmp_path)
    (tmp_path / "sidecar.json").write_bytes((exported[0] / "sidecar.json").read_bytes())
    with pytest.raises(UserError, match="are not as they were exported together"):
        Exported(tmp_path)


@pytest.mark.parametrize(
    ("said", "edited"),
    [('"tench"', '"trench"'), ('"size": 48', '"size": 64'), ('"short": 55', '"short": 48')],
)
def test_an_edited_sidecar_is_refused(exported, tmp_path, said, edited):
    path = copied(exported, tmp_path) / "sidecar.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(text)), encoding="utf-8")  # says the same
    assert Exported(tmp_path).sidecar.classes == CLASSES
    assert said in text
    path.write_text(text.replace(said, edited), encoding="utf-8")
    with pytest.raises(UserError, match=r"or export again \(--classes and --size"):
        Exported(tmp_path)


def test_an_export_goes_over_an_earlier_one_alone(exported, tmp_path):
    names = (*FILES, "model.onnx")
    check_folder(tmp_path / "new", names, None)
    (tmp_path / "model.onnx").write_text("foreign")
    (tmp_path / "notes.txt").write_text("not in the way")
    with pytest.raises(UserError, match=r"model\.onnx is there and is foreign; give another"):
        check_folder(tmp_path, names, None)
    copied(exported, tmp_path)
    check_folder(tmp_path, names, None)
    path = tmp_path / "sidecar.json"
    path.write_text(path.read_text(encoding="utf-8").replace("tench", "trench"), encoding="utf-8")
    check_folder(tmp_path, names, None)  # it is to be exported again
    path.write_text('{"of": "something else"}')
    with pytest.raises(UserError, match=r"inference\.json is there and is foreign"):
        check_folder(tmp_path, names, None)


def test_an_export_goes_over_no_weights_and_no_link(exported, tmp_path):
    weights = copied(exported, tmp_path) / "inference.pdiparams"
    (tmp_path / "same").hardlink_to(weights)
    for given in (weights, tmp_path / "same"):
        with pytest.raises(UserError, match=r"inference\.pdiparams is there and is the weights"):
            check_folder(tmp_path, FILES, given)
    check_folder(tmp_path, FILES, tmp_path / "others.pdparams")
    weights.unlink()
    weights.symlink_to("same")
    with pytest.raises(UserError, match=r"inference\.pdiparams is there and is foreign"):
        check_folder(tmp_path, FILES, None)
    with pytest.raises(UserError, match="is a file; give the name of a folder"):
        check_folder(tmp_path / "same", FILES, None)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_sidecar_cut_short_is_refused(exported, tmp_path, kept):
    path = copied(exported, tmp_path) / "sidecar.json"
    text = path.read_bytes().rstrip()
    path.write_bytes(text[:kept])
    with pytest.raises(UserError, match="is not the sidecar of an exported model"):
        Exported(tmp_path)


@pytest.mark.parametrize("names", [CLASSES[:3], (*CLASSES, "more")])
def test_other_than_the_model_s_classes_are_refused(exported, tmp_path, names):
    other = SIDECAR.model_copy(update={"classes": names})
    with pytest.raises(UserError, match=f"got {len(names)} class names, but the model has 4"):
        export(network(), other, tmp_path)
    other.write(copied(exported, tmp_path))
    pixels = np.zeros((1, 3, 48, 48), np.uint8)
    with pytest.raises(UserError, match=f"names {len(names)} classes, but the model has 4"):
        Exported(tmp_path).on_training_engine()(pixels)


def test_the_command_spares_what_it_did_not_write(ppcls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_state(tmp_path / "w.pdparams", state_of(network()))
    spec = "{depths: [1, 1, 1, 1], width: 4}"
    job = f"model: {{name: ResNet18_vd, spec: {spec}}}\nnum_classes: 4\npreprocess: {{size: 48}}\n"
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_text("foreign")
    command = ("export", "job.yaml", "--weights", "w.pdparams", "--out", "out")
    for status in (2, 0, 0):  # the third goes over what the second wrote
        done = ppcls(*command)
        assert done.returncode == status, done.stderr
        if status:
            assert "model.onnx is there and is foreign" in done.stderr
            assert (tmp_path / "out" / "model.onnx").read_text() == "foreign"
            (tmp_path / "out" / "model.onnx").unlink()


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
    export(network(), SIDECAR, tmp_path)
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
        export(network(), SIDECAR, tmp_path)
