"""The model that a command is told of, by a file or by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from ppcls_core.jobs.trained import Choice, find_trained
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of

OURS = """
model: {name: ResNet18_vd, spec: {width: 8}}
num_classes: 3
weights: last.pdparams
preprocess: {size: 96, short: 128}
"""
PADDLECLAS = """
ARCHITECTURE: {name: MobileNetV3_small_x1_0}
pretrained_model: best
classes_num: 3
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ours.yaml").write_text(OURS)
    (tmp_path / "theirs.yaml").write_text(PADDLECLAS)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    return tmp_path


def test_a_file_says_all(files):
    found = find_trained(str(files / "ours.yaml"), Choice())
    assert (found.job.model.name, found.weights) == ("ResNet18_vd", Path("last.pdparams"))
    assert found.classes == ("0", "1", "2")
    assert (found.preprocess.size, found.preprocess.short) == (96, 128)
    assert found.sidecar().architecture == "ResNet18_vd"


def test_what_is_said_beside_it_counts_more(files):
    choice = Choice(Path("w"), files / "names.txt", 48, ("preprocess.interpolation=cubic",))
    for name in ("ours.yaml", "theirs.yaml"):
        found = find_trained(str(files / name), choice)
        assert (found.weights, found.classes) == (Path("w"), ("one", "two", "three"))
        assert found.preprocess.size == 48
    ours = find_trained(str(files / "ours.yaml"), choice).preprocess
    assert (ours.short, ours.interpolation) == (64, "cubic")  # in proportion


def test_a_name_brings_what_was_published_of_it():
    found = find_trained("Fix_ResNet50_vd_ssld_v2", Choice())
    assert found.weights is None
    assert len(found.classes) == 1000
    assert (found.preprocess.size, found.preprocess.short) == (320, 320)


@pytest.mark.parametrize(
    ("given", "choice", "message"),
    [
        ("ResNet51", Choice(), "no such model, recipe or YAML file; did you mean 'ResNet50'"),
        ("none.yaml", Choice(), "none.yaml: no such file"),
        ("ResNet50", Choice(settings=("num_classes=3",)), "give --weights FILE"),
        ("ResNet50", Choice(settings=("preprocess.sise=3",)), "did you mean 'preprocess.size'"),
        ("InceptionV3", Choice(size=32), "expected at least"),
    ],
)
def test_mistakes_are_told(given, choice, message):
    with pytest.raises(UserError, match=message):
        find_trained(given, choice)


RECORD = {
    "model": {"name": "ResNet18_vd", "spec": {"width": 8}},
    "num_classes": 3,
    "preprocess": {"size": 64, "short": 80, "interpolation": "cubic"},
    "inputs": {"training images": "00"},
}


@pytest.fixture
def weights(files):
    """The best weights of a training, and those of an epoch, beside its record."""
    folder = files / "output"
    (folder / "19").mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(RECORD))
    return folder / "best", folder / "19" / "ppcls", folder


def test_weights_are_used_as_their_training_says(weights, files, caplog):
    for path in weights:
        caplog.clear()
        found = find_trained("ResNet18_vd", Choice(path))
        assert (found.job.model.spec, len(found.classes)) == ({"width": 8}, 3)
        assert found.preprocess.model_dump() == RECORD["preprocess"]
        assert "the training was of 3 classes, and so is the model" in caplog.text
        assert "it was tested at 64 pixels, and so is this" in caplog.text
    (files / "theirs.yaml").write_text(PADDLECLAS.replace("MobileNetV3_small_x1_0", "ResNet18_vd"))
    for name in ("ours.yaml", "theirs.yaml"):
        caplog.clear()
        assert find_trained(str(files / name), Choice(weights[0])).preprocess.size == 64
        assert "at 64 pixels, and so is this, not " in caplog.text


def test_what_is_said_beside_weights_counts_more_than_their_training(weights, files, caplog):
    def size(given: str, *settings: str, size: int | None = None) -> int:
        return find_trained(given, Choice(weights[0], None, size, settings)).preprocess.size

    theirs = str(files / "theirs.yaml")
    Path(theirs).write_text(PADDLECLAS.replace("MobileNetV3_small_x1_0", "ResNet18_vd"))
    assert size("ResNet18_vd", "preprocess.size=128") == 128
    assert size(str(files / "ours.yaml"), "preprocess={size: 128}") == 128
    assert size(theirs, "image_shape=[3, 128, 128]") == 128
    assert "tested at" not in caplog.text
    found = find_trained("ResNet18_vd", Choice(weights[0], size=128)).preprocess
    assert (found.size, found.short) == (128, 160)  # in proportion
    assert size("ResNet34_vd") == 224  # another model's
    assert "the training was of the model ResNet18_vd, not of ResNet34_vd" in caplog.text


@pytest.mark.parametrize(
    ("name", "option"), [("ours.yaml", "num_classes"), ("theirs.yaml", "classes_num")]
)
def test_weights_for_other_classes_say_what_to_type(files, name, option):
    network = build_model("ResNet18_vd", num_classes=5, spec={"width": 8})
    save_state(files / "five.pdparams", state_of(network))
    text = PADDLECLAS.replace("MobileNetV3_small_x1_0", "ResNet18_vd, params: {width: 8}")
    (files / "theirs.yaml").write_text(text)
    given, choice = str(files / name), Choice(files / "five")
    with pytest.raises(UserError, match=rf"for 5 classes, .* has 3: .* type `-o {option}=5`\)$"):
        find_trained(given, choice).network()
    find_trained(given, Choice(files / "five", settings=(f"{option}=5",))).network()


def test_images_are_tested_as_large_as_they_were_trained_on(files):
    (files / "ours.yaml").write_text(
        OURS.replace("preprocess: {size: 96, short: 128}", "training: {epochs: 1, image_size: 64}")
    )
    assert find_trained(str(files / "ours.yaml"), Choice()).preprocess.size == 64


def test_class_names_that_do_not_fit_are_refused(files):
    (files / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"names\.txt: names 2 classes, but the model has 3"):
        find_trained(str(files / "ours.yaml"), Choice(classes=files / "names.txt"))
    (files / "names.txt").write_bytes(b"one\n\xff\nthree\n")
    with pytest.raises(UserError, match="class names cannot be read"):
        find_trained(str(files / "ours.yaml"), Choice(classes=files / "names.txt"))


def test_a_file_without_weights_names_those_of_its_training(files):
    (files / "ours.yaml").write_text(OURS.replace("weights: last.pdparams", ""))
    with pytest.raises(UserError, match=r"give --weights output/ResNet18_vd/best\.pdparams"):
        find_trained(str(files / "ours.yaml"), Choice())


def test_weights_of_another_model_are_refused(files):
    save_state(files / "w.pdparams", {})
    with pytest.raises(UserError, match="entries do not fit the model"):
        find_trained(str(files / "ours.yaml"), Choice(weights=files / "w.pdparams")).network()


def test_of_weights_that_do_not_fit_the_record_names_the_model(weights):
    save_state(weights[0].with_suffix(".pdparams"), {})
    said = r"job\.json says that they are of ResNet18_vd, width 8 with 3 classes\n"
    with pytest.raises(UserError, match=said):
        find_trained("ResNet34_vd", Choice(weights[0], settings=("num_classes=3",))).network()
