"""A recipe with several students is a recipe each, all but the student in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_catalog.base.config import UserError
from data_catalog.recipes import RECIPES
from ppcls_core.dedup.decisions import Decision, append_decision
from ppcls_core.engine.config import DistillTraining
from tasks.recipe import STUDENTS, Recipe, digest_of_recipes, load_recipe, load_recipes
from tasks.start.recipe import SIZES
from tasks.trainings import SHARES, fix_size
from tests.conftest import TINY

FAMILY = {
    "narrow": {"student": {"spec": {"width": 2}}},
    "long": {"distill": {"epochs": 7, "schedule": {"warmup_epochs": 3}}},
}


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "family.yaml"
    data = yaml.safe_load(TINY.read_text()) | {"students": FAMILY}
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


SHORT = """
data: {labelled: clothes, pool: clothes}
teacher: {model: {name: ResNet18_vd}, train: {epochs: 2}}
student: {name: ResNet18_vd}
"""


def short(tmp_path: Path, text: str = "", *settings: str) -> Recipe:
    (tmp_path / "short.yaml").write_text(SHORT + text)
    return load_recipe(str(tmp_path / "short.yaml"), settings)


def test_a_recipe_may_leave_all_trainings_out(tmp_path):
    recipe = short(tmp_path)
    assert recipe.baseline.epochs == recipe.distill.epochs == 60
    assert (recipe.finetune.epochs, recipe.fix.epochs) == (4, 6)
    assert (recipe.fix.image_size, recipe.finetune.image_size) == (256, 224)
    assert recipe.distill.teacher == recipe.finetune.teacher == "replay"
    assert recipe.finetune.lr == recipe.fix.lr == pytest.approx(recipe.baseline.lr / 10)
    assert recipe.baseline.augmentation == recipe.distill.augmentation


def test_what_is_left_out_is_like_the_distillation(tmp_path):
    text = "distill: {epochs: 32, lr: 0.3, batch_size: 8, image_size: 64, loss: kl}\n"
    recipe = short(tmp_path, text)
    assert recipe.distill == DistillTraining(
        epochs=32, lr=0.3, batch_size=8, image_size=64, loss="kl"
    )
    for training in (recipe.baseline, recipe.finetune, recipe.fix):
        assert (training.batch_size, training.image_size) == (8, 64)
    assert (recipe.finetune.loss, recipe.finetune.epochs) == ("kl", 2)
    assert recipe.finetune.teacher == recipe.distill.teacher == "online"
    settings = ["distill.image_size=64", "distill.epochs=160", "finetune.epochs=7"]
    recipe = short(tmp_path, "", *settings)
    assert (recipe.baseline.image_size, recipe.fix.image_size) == (64, 64)
    assert (recipe.baseline.epochs, recipe.finetune.epochs, recipe.fix.epochs) == (160, 7, 16)


def test_what_a_recipe_states_stays_as_it_is():
    for path in (TINY, *RECIPES.rglob("*.yaml")):
        (recipe,) = load_recipes(str(path), lacking="leave")
        stated = yaml.safe_load(path.read_text())
        for name in STUDENTS:
            training = getattr(recipe, name)
            assert training == type(training).model_validate(stated[name]), (path, name)


def test_published_weights_may_be_left_out_where_nothing_is_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.recipe.published_here", lambda name: None)
    monkeypatch.setattr("tasks.recipe.published_file", lambda name: pytest.fail("downloads"))
    path = tmp_path / "published.yaml"
    path.write_text(SHORT)
    settings = ["teacher={model: {name: ResNet50_vd}, weights: published}"]
    (recipe,) = load_recipes(str(path), settings, lacking="leave published")
    assert recipe.network is not None
    assert recipe.network.weights is None
    assert recipe.left_out == ("teacher.weights",)
    own = tmp_path / "ResNet50_vd.pdparams"  # which a name means rather than published weights
    own.touch()
    settings = ["teacher={model: {name: ResNet50_vd}, weights: ResNet50_vd}"]
    for lacking in ("leave published", "leave"):
        (recipe,) = load_recipes(str(path), settings, lacking)
        assert recipe.network is not None
        assert recipe.network.weights == str(own)
    settings = ["teacher={model: {name: ResNet50_vd}, weights: mine.pdparams}"]
    with pytest.raises(UserError, match="no such file"):  # a mistake is told all the same
        load_recipes(str(path), settings, lacking="leave published")


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        ("distill: {epochs: 3, epoch: 3}\n", "seed=1", r"unknown setting 'distill\.epoch'"),
        ("distill: null\n", "seed=1", r"distill: expected"),
        ("finetune: {lr: 0.1}\n", "seed=1", r"'finetune\.epochs' is required"),
        ("", "distill.lr=fast", r"short\.yaml: distill\.lr: expected a number"),
        ("", "baseline.epochs=0", r"baseline\.epochs: expected a value greater"),
    ],
)
def test_mistakes_in_what_is_left_out(tmp_path, text, setting, message):
    with pytest.raises(UserError, match=message) as error:
        short(tmp_path, text, setting)
    assert len(str(error.value).splitlines()) == 1


def test_what_init_writes_has_the_same_relations():
    for size in SIZES.values():
        steps = [round(size.steps * share.steps) for share in SHARES.values()]
        assert steps == [size.steps, size.steps, size.steps // 16, size.steps // 10]
        assert fix_size(size.image_size) in (256, size.image_size)


def test_decisions_and_what_they_say_are_part_of_a_recipes_digest(tmp_path: Path) -> None:
    def digest(*settings: str) -> str:
        return digest_of_recipes([load_recipe(str(TINY), list(settings))])

    file = tmp_path / "reviewed.jsonl"
    file.touch()
    reviewed = f"dedup.reviewed={file}"
    before = digest(reviewed)
    assert before == digest()  # nothing is decided
    row = {"pool_id": "a", "val_id": "b", "pool_sha256": "1" * 64, "val_sha256": "2" * 64}
    append_decision(file, Decision.on(row, "accepted"))
    assert digest(reviewed) != before
