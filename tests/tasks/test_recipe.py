"""A recipe with several students is a recipe each, all but the student in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_catalog.base.config import UserError
from tasks.recipe import load_recipe, load_recipes
from tests.conftest import TINY

STUDENTS = {
    "narrow": {"student": {"spec": {"width": 2}}},
    "long": {"distill": {"epochs": 7, "schedule": {"warmup_epochs": 3}}},
}


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "family.yaml"
    data = yaml.safe_load(TINY.read_text()) | {"students": STUDENTS}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_each_student_has_its_own_and_the_rest_in_common(family):
    tiny, (narrow, long) = load_recipe(str(TINY)), load_recipes(str(family))
    assert (narrow.name, long.name) == ("family-narrow", "family-long")
    assert narrow.student.spec == {"depths": [1, 1, 1, 1], "width": 2}
    assert narrow.distill == tiny.distill
    assert long.student == tiny.student
    assert long.distill.epochs == 7
    assert long.distill.lr == tiny.distill.lr
    for recipe in (narrow, long):
        assert recipe.teacher == tiny.teacher
        assert recipe.select == tiny.select
        assert recipe.baseline == tiny.baseline


def test_settings_go_over_all_students_or_one(family):
    settings = ["distill.epochs=5", "students.narrow.finetune.epochs=4", "select.k=3"]
    narrow, long = load_recipes(str(family), settings)
    assert (narrow.distill.epochs, long.distill.epochs) == (5, 5)
    assert (narrow.finetune.epochs, long.finetune.epochs) == (4, 1)
    assert narrow.select.k == long.select.k == 3


def test_one_student_needs_no_list():
    assert load_recipes(str(TINY)) == [load_recipe(str(TINY))]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("students=[]", r"students: got \[\], expected"),
        ("students={}", "students: got {}, expected"),
        ("students.wide=3", "students.wide: got 3, expected sections"),
        ("students.wide.studnt={}", "'studnt' is not a student's; did you mean 'student'"),
        ("students.wide.teacher={}", "'teacher' is not a student's"),
        ("students.wide.distill.epoch=3", "unknown setting 'distill.epoch'"),
        ("students.a/b.distill.epochs=3", "name"),
    ],
)
def test_mistakes(family, setting, message):
    with pytest.raises(UserError, match=message):
        load_recipes(str(family), [setting])


def test_where_one_student_is_expected_several_are_refused(family):
    with pytest.raises(UserError, match="has `students`"):
        load_recipe(str(family))


def test_a_student_of_another_model_takes_none_of_the_common_spec(family):
    settings = ["students.other.student.name=MobileNetV3_small_x0_35"]
    recipe = load_recipes(str(family), settings)[-1]
    assert recipe.name == "family-other"
    assert recipe.student.spec == {}


def test_a_mistake_names_its_student(family):
    with pytest.raises(UserError, match=r"student long: .*distill"):
        load_recipes(str(family), ["students.long.distill.epochs=0"])


def test_views_that_nobody_replays_are_refused():
    with pytest.raises(UserError, match=r"`distill.teacher: replay`: set that too$"):
        load_recipe(str(TINY), ["label.views=2"])


@pytest.mark.parametrize("section", ["baseline", "distill", "finetune", "fix", "teacher.train"])
def test_a_stage_measures_what_it_trains(section):
    with pytest.raises(UserError, match=rf"{section}.eval_every: got 0, expected 1 or more"):
        load_recipe(str(TINY), [f"{section}.eval_every=0"])
