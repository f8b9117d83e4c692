"""A teacher whose given weights are adapted to the data set's classes: probe and finetune."""

from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import load_state, save_state
from ppcls_core.models.weights.state import state_of
from tasks.recipe import load_recipe
from tests.conftest import TINY, others_slow
from tests.flows.conftest import run_stages

SPEC = {"depths": [1, 1, 1, 1], "width": 4}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the tiny recipe's teacher for 7 other classes."""
    path = tmp_path / "others.pdparams"
    save_state(path, state_of(build_model("ResNet18_vd", num_classes=7, spec=SPEC)))
    return path


@pytest.mark.parametrize("mode", others_slow(["probe", "finetune"], ["finetune"]))
def test_given_weights_are_adapted(tmp_path: Path, weights: Path, mode: str) -> None:
    train = {"probe": "{mode: probe}", "finetune": "{mode: finetune, epochs: 1, batch_size: 8}"}
    settings = [f"teacher.weights={weights}", f"teacher.train={train[mode]}"]
    settings += ["data.options={teacher: val.tar}"]
    if mode == "probe":
        settings += ["data.labelled=clothes", "data.pool=clothes"]
    done, _ = run_stages(tmp_path / "store", settings, "teacher")
    result = done["teacher"]
    given, made = load_state(weights), load_state(result.path("model.pdparams"))
    changed = {name for name in made if not np.array_equal(made[name], given.get(name))}
    classifier = {name for name, value in made.items() if value.shape[-1] == 10}
    assert (changed == classifier) == (mode == "probe")
    assert classifier <= changed
    assert result.counts["in"] == result.counts["out"]
    assert 0 <= result.metrics["top1"] <= 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["teacher.train={mode: probe}"], "`train.mode: probe` needs `weights`"),
        (["teacher.weights=published"], "`weights` and `train` exclude each other"),
        (["teacher.train={mode: probe, epochs: 3}"], "unknown setting 'teacher.train.epochs'"),
        (["teacher.train.mode=prob"], "teacher.train.mode: "),
        (["teacher.weights=published", "teacher.train={mode: probe}"], "teacher.weights: "),
    ],
)
def test_settings_that_contradict_each_other(settings: list[str], told: str) -> None:
    if "published" in settings[0] and len(settings) > 1:
        settings = [*settings, "teacher.model.name=ResNet50_ACNet", "teacher.model.spec={}"]
    with pytest.raises(UserError) as caught:
        load_recipe(str(TINY), settings)
    assert told in str(caught.value)
