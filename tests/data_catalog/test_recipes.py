"""A recipe's name, or its file, means its newest results; what else is called so comes first."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.base.config import UserError, load_yaml
from data_catalog.base.files import write_json
from data_catalog.recipes import (
    MANIFEST,
    is_recipe_of_pipeline,
    known_recipes,
    last_keys_file,
    near_recipe,
    newest_result,
    recipe_path,
    remember_recipe,
    result_folder,
    store_root,
)

RECIPE = "data: {labelled: clothes, pool: clothes}\nstudent: {name: ResNet18_vd}\n"


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty store and an empty current folder; what is told."""
    monkeypatch.setenv("SSLD_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return []


def finish(recipe: str, key: str = "k" * 64) -> Path:
    """The folder of a finished export of the recipe."""
    folder = result_folder(store_root(), "export", key)
    write_json(folder / MANIFEST, {})
    write_json(last_keys_file(store_root(), recipe), {"export": key})
    return folder


def test_a_name_and_a_file_mean_the_newest_result(notes: list[str], tmp_path: Path) -> None:
    Path("mine.yaml").write_text(RECIPE)
    Path("called.yaml").write_text(RECIPE + "name: other\n")
    first, second = finish("mine"), finish("mine", "l" * 64)
    other, demo = finish("other", "m" * 64), finish("demo", "n" * 64)
    assert first != second
    for given in ("mine.yaml", "./mine.yaml", str(Path("mine.yaml").absolute()), "mine"):
        assert newest_result(given, "export", notes.append) == second
    assert newest_result("called.yaml", "export", notes.append) == other
    assert newest_result("demo", "export", notes.append) == demo
    assert newest_result("nothing", "export", notes.append) is None
    assert notes == []


def test_what_is_not_made_yet_is_told_with_the_command(notes: list[str]) -> None:
    Path("mine.yaml").write_text(RECIPE)
    for given in ("mine.yaml", "demo"):
        with pytest.raises(UserError, match=rf"{given}.*no finished export.*`ssld run {given}`"):
            newest_result(given, "export", notes.append)
    (finish("demo") / MANIFEST).unlink()  # a damaged result is none
    with pytest.raises(UserError, match="no finished export"):
        newest_result("demo", "export", notes.append)


@pytest.mark.parametrize("given", ["photo.yaml", "./photo.yaml", "photos.yml"])
def test_a_misspelt_recipe_is_told_with_the_file_that_is_there(
    notes: list[str], given: str
) -> None:
    Path("photos.yaml").write_text(RECIPE)
    ways: list[Callable[[str], object]] = [recipe_path, lambda name: load_yaml(Path(name))]
    ways.append(lambda name: newest_result(name, "export", notes.append))
    for way in ways:
        with pytest.raises(UserError, match=r"no such file.*; did you mean 'photos.yaml'\?"):
            way(given)


@pytest.mark.parametrize("place", ["here", "shipped", "ran", "made"])
def test_a_misspelt_name_is_told_with_what_is_there(place: str, notes: list[str]) -> None:
    if place == "here":
        Path("garden.yml").write_text(RECIPE)
    elif place == "ran":
        Path("sub").mkdir()
        Path("sub/garden.yaml").write_text(RECIPE)
        remember_recipe("sub/garden")
    elif place == "made":
        finish("garden")
    name = "demo" if place == "shipped" else "garden"
    with pytest.raises(UserError, match=rf"'{name}s'.*; did you mean '{name}'\?"):
        recipe_path(f"{name}s")
    assert newest_result(f"{name}s", "export", notes.append) is None
    assert near_recipe(f"{name}s") == f"; did you mean '{name}'?"
    assert near_recipe("kitchen") == ""


def test_a_recipe_is_named_in_every_way_and_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    file = Path("mine.yaml").absolute()
    file.write_text(RECIPE)
    (tmp_path / "there").mkdir()
    folder = finish("mine")
    for given in ("mine.yaml", "mine", "./mine", str(file), str(file.with_suffix(""))):
        assert recipe_path(given) == file
        assert newest_result(given, "export", notes.append) == folder
    with pytest.raises(UserError, match="no such recipe"):
        monkeypatch.chdir(tmp_path / "there")
        recipe_path("mine")
    remember_recipe(str(file))
    assert recipe_path("mine") == file  # of the recipe that has run
    assert newest_result("mine", "export", notes.append) == folder
    for find in (recipe_path, lambda name: newest_result(name, "export", notes.append)):
        with pytest.raises(UserError, match=rf"mine.yaml: no such file; give `mine` .*{file}"):
            find("mine.yaml")
    file.unlink()
    with pytest.raises(UserError, match=r"here/mine.yaml: no such file"):
        load_yaml(recipe_path("mine"))
    assert newest_result("mine", "export", notes.append) == folder  # which is there still
    assert recipe_path("demo") == known_recipes()["demo"]


def test_a_file_here_comes_before_a_recipe_that_is_shipped_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("demo.yaml").write_text(RECIPE)
    for _ in range(2):
        assert recipe_path("demo") == Path("demo.yaml").absolute()
    assert len(caplog.messages) == 1
    assert "demo.yaml is taken, not" in caplog.text


def test_of_several_students_one_is_asked_for(notes: list[str]) -> None:
    Path("family.yaml").write_text(RECIPE + "students: {small: {}, large: {}}\n")
    small = finish("family-small")
    with pytest.raises(UserError, match="give one of family-small, family-large"):
        newest_result("family.yaml", "export", notes.append)
    assert newest_result("family-small", "export", notes.append) == small


def test_what_exists_comes_first_and_that_is_told(notes: list[str]) -> None:
    folder = finish("demo")
    assert newest_result("demo", "export", notes.append, "the model of that name") is None
    Path("demo").touch()
    assert newest_result("demo", "export", notes.append) is None
    assert [note.partition(" is taken")[0] for note in notes] == [
        "demo: the model of that name",
        "demo: the file of that name",
    ]
    assert all(str(folder) in note for note in notes)
    Path("job.yaml").write_text("model: {name: ResNet18_vd}\n")
    assert newest_result("job.yaml", "export", notes.append) is None
    assert len(notes) == 2


def test_a_folder_of_photographs_does_not_hide_the_recipe_of_its_name(notes: list[str]) -> None:
    Path("mine.yaml").write_text(RECIPE)
    Path("mine").mkdir()
    with pytest.raises(UserError, match="no finished export"):
        newest_result("mine", "export", notes.append)
    folder = finish("mine")
    assert newest_result("mine", "export", notes.append) == folder
    assert notes == []


def test_recipes_are_told_from_other_files() -> None:
    assert is_recipe_of_pipeline({"data": {}, "student": {}})
    assert is_recipe_of_pipeline({"data": {}, "students": {}})
    assert not is_recipe_of_pipeline({"model": {}, "train": {}})
