"""Jobs out of files, ours and PaddleClas's: what both readings refuse, and how."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from ppcls_core.jobs.job import Job, load_job

OWN = """
model: {name: ResNet18_vd}
train: {list: train.txt, root: images}
val: {list: val.txt, root: images}
training: {epochs: 2, lr: 0.05}
"""
THEIRS = """
ARCHITECTURE: {name: ResNet18_vd}
epochs: 2
LEARNING_RATE: {function: Piecewise, params: {lr: 0.05}}
TRAIN: {file_list: train.txt, data_dir: images}
VALID: {file_list: val.txt, data_dir: images}
"""
both = pytest.mark.parametrize("text", [OWN, THEIRS])


def load(folder: Path, text: str, *settings: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(text)
    return load_job(path, list(settings))


@both
def test_both_forms_become_jobs(tmp_path, text):
    got = load(tmp_path, text)
    assert (got.model.name, got.num_classes, got.preprocess.size) == ("ResNet18_vd", 1000, 224)
    assert got.train and got.train.root == "images"
    assert got.learning and (got.learning.epochs, got.learning.lr) == (2, 0.05)


def test_of_an_exported_folder_it_is_said_what_takes_it(tmp_path):
    (tmp_path / "sidecar.json").touch()
    with pytest.raises(UserError, match=r"is an exported model, .* give the name of the recipe"):
        load_job(tmp_path, [])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainin.epochs=3", "unknown setting 'trainin'; did you mean 'training' or 'train'?"),
        ("training.epoch=3", "unknown setting 'training.epoch'; did you mean 'training.epochs'?"),
        ("training.schedule={name: Cosin}", "unknown name 'Cosin'; did you mean 'Cosine'"),
        ("training.epochs=many", "training.epochs: expected a whole number, got 'many'"),
        ("model.name=ResNet18vd", "unknown model 'ResNet18vd'; did you mean 'ResNet18_vd'"),
        ("model.spec={widht: 3}", "unknown setting 'widht'; did you mean 'width'?"),
        ("workers=1000", "workers: expected a value less than or equal to 256, got 1000"),
        ("preprocess.size=100000", "got images of 100000 pixels, expected at most 4096"),
        ("training.image_size=100000", "got images of 100000 pixels, expected at most 4096"),
        ("preprocess.size=16", "got images of 16 pixels, expected at least 32"),
    ],
)
def test_mistakes_in_our_form(tmp_path, setting, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, OWN, setting)
    assert message in str(caught.value)
    assert "default factory" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "job.yaml"))


@both
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("x: [", "not valid YAML"),
        ("1: 2", "the key '1' is not text"),
        ("x: &x [*x]", "an alias within itself"),
        ("x: " + "9" * 5000, "a number of 5,000 characters"),
        ("#" * 40_000, "more than 32,768 bytes"),
        ("x: \0", "not valid YAML"),
    ],
)
def test_both_forms_are_read_with_the_same_care(tmp_path, text, extra, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text + extra)


def test_a_key_given_twice_is_an_error_in_ours_and_told_in_theirs(tmp_path, caplog):
    with pytest.raises(UserError, match="key 'epochs' is given twice, again in line 2; keep one"):
        load(tmp_path, "epochs: 1\nepochs: 2" + OWN)
    assert load(tmp_path, "epochs: 1" + THEIRS).learning == load(tmp_path, THEIRS).learning
    assert "key 'epochs' is given twice, again in line 3; the last counts" in caplog.text


def test_the_command_line_says_it_in_a_line_and_at_once(ppcls, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = ppcls("eval", "-c", tmp_path / "fifo")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/fifo: is a folder or a device")
    assert done.stderr.count("\n") == 1
