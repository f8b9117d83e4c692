"""Weights in every format are read at every place where weights are given."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.jobs.trained import Choice, find_trained
from ppcls_core.labels.teacher import NetworkTeacher
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.models.weights.convert import convert
from ppcls_core.models.weights.files import load_state, save_state, weights_digest
from ppcls_core.models.weights.state import state_of
from tasks.recipe import load_recipe

NAME = "MobileNetV3_small_x0_35"
PROJECT = Path(__file__).resolve().parents[4]
FORMATS = ["w.pdparams", "w", "w.safetensors", "folder"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in each of FORMATS."""
    folder = tmp_path_factory.mktemp("weights")
    paddle.seed(3)
    save_state(folder / "w.pdparams", state_of(build_model(NAME, num_classes=2)))
    for name in ("w.safetensors", "folder"):
        convert(folder / "w.pdparams", folder / name, NAME)
    return folder


PLACES: dict[str, Callable[[Path], paddle.nn.Layer]] = {
    "build_model": lambda path: build_model(NAME, num_classes=2, pretrained=path),
    "infer, export, quantize": lambda path: find_trained(
        NAME, Choice(weights=path, settings=("num_classes=2",))
    ).network(),
    "label": lambda path: NetworkTeacher(
        model=ModelConfig(name=NAME),
        num_classes=2,
        weights=path,
        preprocess=Preprocess(size=32),
    ).network(),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_every_format_is_read_at_every_place(folder, place, name):
    got = state_of(PLACES[place](folder / name))
    for key, array in load_state(folder / "w").items():
        np.testing.assert_array_equal(got[key], array)


@pytest.mark.parametrize("name", FORMATS)
def test_a_recipe_takes_every_format_as_its_teacher(folder, name):
    settings = [f"teacher.weights={folder / name}", "teacher.train=null"]
    found = load_recipe("demo", settings).teacher.weights
    assert found is not None
    assert load_state(Path(found)).keys()
    assert len(weights_digest(Path(found))) == 64


def test_the_digest_of_a_folder_is_that_of_its_content(folder, tmp_path):
    shutil.copytree(folder / "folder", tmp_path / "moved")
    before = weights_digest(folder / "folder")
    assert weights_digest(tmp_path / "moved") == before
    changed = next(path for path in sorted((tmp_path / "moved").rglob("*")) if path.is_file())
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    assert weights_digest(tmp_path / "moved") != before


def test_a_home_folder_that_is_not_there_is_a_mistake_of_the_user():
    with pytest.raises(UserError, match="write the home folder out"):
        load_state(Path("~no-such-user/w"))


def test_nothing_reads_weights_past_the_one_way():
    # `load_weights` knows the names of every format. What else reads a state fills no network from
    # a path that a user gave: conversion, checkpoints, the check of a download.
    allowed = {"state.py", "convert.py", "checkpoint.py", "files.py"}
    readers = {
        path.name
        for package in ("ppcls_core", "tasks", "flows")
        for path in (PROJECT / package).rglob("*.py")
        if re.search(r"\bload_state\b(?!`)|paddle\.load\(", path.read_text(encoding="utf-8"))
    }
    assert readers == allowed
