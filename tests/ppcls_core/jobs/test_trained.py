"""The model that a command is told of, by a file or by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from ppcls_core.jobs.trained import Choice, find_trained
from ppcls_core.models.weights.files import save_state

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
    assert (found.model.name, found.weights) == ("ResNet18_vd", Path("last.pdparams"))
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
        ("ResNet51", Choice(), "unknown model 'ResNet51'; did you mean 'ResNet50'"),
        ("none.yaml", Choice(), "none.yaml: cannot be read"),
        ("ResNet50", Choice(settings=("num_classes=3",)), "give --weights FILE"),
        ("ResNet50", Choice(settings=("preprocess.sise=3",)), "did you mean 'size'"),
        ("InceptionV3", Choice(size=32), "expected at least"),
    ],
)
def test_mistakes_are_told(given, choice, message):
    with pytest.raises(UserError, match=message):
        find_trained(given, choice)


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
