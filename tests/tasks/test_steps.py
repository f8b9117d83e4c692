"""Steps of the trainings before they run, and what is doubtful about them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_catalog.base.errors import UserError
from data_catalog.sources import Dataset
from tasks.recipe import load_recipe
from tasks.run.counts import are_all_in
from tasks.stages.data import checked_data, fingerprints
from tasks.steps import doubts, doubts_of_settings, steps_of
from tests.conftest import TINY

DEMO = {"train": 800, "teacher": 800, "val": 372, "pool": 2718}


def test_steps_of_the_demo() -> None:
    recipe = load_recipe("demo")
    steps = steps_of(recipe, DEMO, 10)
    assert [str(each) for each in steps] == [
        "baseline 64 x 25 = 1,600",
        "distill at most 29 x 56 = 1,624",
        "finetune 4 x 25 = 100",
        "fix 6 x 25 = 150",
    ]
    assert list(doubts(recipe, steps)) == []
    alone = load_recipe("demo", ["select.policy=none"])
    assert str(steps_of(alone, DEMO, 10)[1]) == "distill 29 x 25 = 725"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "teacher.train={mode: finetune, epochs: 30, batch_size: 32, image_size: 224}",
            ["teacher: it is trained on 224 pixels and labels at 208"],
        ),
        ("baseline.epochs=10", ["baseline: 250 steps are few", "differ in steps (250 and 1,624)"]),
        (
            "finetune.schedule.warmup_epochs=5",
            ["finetune: the learning rate rises through all 4 epochs and never falls"],
        ),
        (
            "fix.schedule={name: ExponentialWarmup, warmup_epochs: 6}",
            ["fix: the learning rate rises through all 6"],
        ),
        ("distill.image_size=64", ["baseline 56, distill 64, finetune 56, fix 56: one learns"]),
        ("fix.image_size=48", ["fix 48: one learns what another does not see"]),
        ("select={policy: none, k: 5}", ["differ in steps", "select.k: has no effect"]),
        ("distill.epochs=5", ["distill: 280 steps", "differ in steps", "distill: the learning"]),
        (
            "teacher.train={mode: finetune, epochs: 20, batch_size: 32, image_size: 208, "
            "schedule: {name: CosineWarmup, warmup_epochs: 30}}",
            ["teacher.train: the learning rate rises through all 20 epochs"],
        ),
    ],
)
def test_doubts(setting: str, told: list[str]) -> None:
    recipe = load_recipe("demo", [setting])
    found = list(doubts(recipe, steps_of(recipe, DEMO, 10)))
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))


def test_trainings_that_rise_alike_are_told_in_one_sentence() -> None:
    schedules = [f"{name}.schedule.warmup_epochs=9" for name in ("finetune", "fix")]
    recipe = load_recipe("demo", ["finetune.epochs=6", *schedules])
    assert list(doubts_of_settings(recipe)) == [
        "finetune, fix: the learning rate rises through all 6 epochs and never falls, as the "
        "warm-up is of 9; set finetune.schedule.warmup_epochs, fix.schedule.warmup_epochs"
    ]


def test_a_selection_without_a_pool_is_told() -> None:
    recipe = load_recipe("demo", ["baseline.epochs=29", "select.k=5"])
    steps = steps_of(recipe, DEMO | {"pool": 0}, 10)
    (told,) = doubts(recipe, steps)
    assert told.startswith("select: has no effect: the pool holds no image but those of train")
    with checked_data(load_recipe(str(TINY))) as images:
        assert are_all_in(images["train"], images["train"])
        assert not are_all_in(images["pool"], images["train"])


@pytest.mark.parametrize(("name", "num"), [("baseline", 800), ("distill", 800 + 1000)])
def test_a_batch_of_more_images_than_there_are_is_told(name: str, num: int) -> None:
    recipe = load_recipe("demo", [f"{name}.batch_size={num}", "select.k=100"])
    assert next(each for each in steps_of(recipe, DEMO, 10) if each.stage == name).an_epoch == 1
    recipe = load_recipe("demo", [f"{name}.batch_size={num + 1}", "select.k=100"])
    with pytest.raises(UserError, match=f"`{name}.batch_size` is .* only {num:,} images"):
        steps_of(recipe, DEMO, 10)


def test_images_that_are_checked_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, build = list[str](), Dataset.build

    def spy(dataset: Dataset, *arguments: object) -> object:
        read.append(dataset.name)
        return build(dataset, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "build", spy)
    with checked_data(load_recipe(str(TINY))) as images:
        assert set(images) == {"train", "teacher", "val", "pool"}
        for _ in range(2):
            inside = fingerprints(load_recipe(str(TINY)))
    assert len(read) == 1
    assert fingerprints(load_recipe(str(TINY))) == inside
    assert len(read) == 2


@pytest.mark.parametrize("split", ["train", "val", "pool"])
def test_files_that_are_not_there_are_told_before_anything_runs(tmp_path: Path, split: str) -> None:
    """As where a folder was renamed since its list was written."""
    cv2.imwrite(str(tmp_path / "there.png"), np.zeros((8, 8, 3), np.uint8))
    places = {"root": str(tmp_path)}
    for name in ("train", "val", "pool"):
        listed = [f"gone/{n}.png" for n in range(4)] if name == split else ["there.png"]
        label = "" if name == "pool" else " 0"
        (tmp_path / f"{name}.txt").write_text("".join(f"{path}{label}\n" for path in listed))
        places[name] = f"{tmp_path / name}.txt"
    data = tmp_path / "data.yaml"
    data.write_text(json.dumps(places))
    recipe = load_recipe(str(TINY), [f"data.labelled={data}", f"data.pool={data}"])
    with pytest.raises(UserError, match=r"4 of 4 .*missing: 4"), checked_data(recipe):
        pass
