"""The pipeline's recipes by name, and where the newest results of each lie.

This is all that programs which do not know the pipeline need of it:

    STORE/recipes/RECIPE.json        stage -> key of its newest result
    STORE/STAGE/KEY[:20]/            that result, with manifest.json once it is finished
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_catalog.base.config import closest, load_yaml, no_such_yaml
from data_catalog.base.errors import UserError
from data_catalog.base.files import read_json, user_folder
from data_catalog.images.columns import Images, read_images

PROJECT = Path(__file__).resolve().parents[1]
RECIPES = PROJECT / "configs" / "ssld"
MANIFEST = "manifest.json"
ROOTS = "roots.json"  # of the stage `data`: where each root of its images lies
_YAML = (".yaml", ".yml")


def known_recipes() -> dict[str, Path]:
    """The recipes in configs/ssld and below, by name."""
    return {path.stem: path for path in sorted(RECIPES.rglob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a recipe given as a path, or as the name of one in configs/ssld or below. Raises
    UserError: there is none of that name, with those that may be meant."""
    direct = Path(name)
    if direct.exists() and (direct.suffix in _YAML or direct.is_file()):
        return direct.resolve()
    if direct.suffix in _YAML:
        raise no_such_yaml(direct)
    known = known_recipes()
    if name in known:
        return known[name]
    near = closest(name, [*known, *map(str, direct.parent.glob("*.y*ml"))])
    raise UserError(f"recipe '{name}': no such file and no such recipe{near}")


def is_recipe_of_pipeline(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a recipe for `ssld run`."""
    return "data" in data and bool({"student", "students"} & data.keys())


def store_root() -> Path:
    """The folder of all results: $SSLD_HOME/store, by default in the folder `work` of a clone, else
    in the user's data."""
    home = os.environ.get("SSLD_HOME") or _clone_or_user()
    return Path(home).expanduser().resolve() / "store"


def _clone_or_user() -> Path:
    if (PROJECT / "pyproject.toml").is_file():
        return PROJECT / "work"
    return user_folder("XDG_DATA_HOME", ".local/share")


def result_folder(root: Path, stage: str, key: str) -> Path:
    """The folder of the result of `stage` under `key`, which need not exist."""
    return root / stage / key[:20]  # short paths; the manifest has the whole key


def last_keys(root: Path, recipe: str) -> dict[str, str]:
    """Key of the newest finished result of each stage, of the recipe of this name."""
    return read_json(last_keys_file(root, recipe)) or {}


def last_keys_file(root: Path, recipe: str) -> Path:
    """The file that `last_keys` reads."""
    return root / "recipes" / f"{recipe}.json"


def newest_result(
    given: str, stage: str, note: Callable[[str], None], taken: str = ""
) -> Path | None:
    """The folder of the newest result of `stage` that the recipe `given` has made: a name, or its
    file; None where nothing is called so.

    None too where `given` means something else: another file, or what `taken` says (the caller
    looks whether a folder of that name is one of what else it takes: the folder of photographs that
    a recipe is named after is not); `note` is then told of the result that it hides. Raises
    UserError: no such file; the recipe has no such result yet, or one for each of several students,
    with the command that helps.
    """
    path = Path(given)
    if path.suffix in _YAML and not path.exists():
        raise no_such_yaml(path)
    is_file = path.suffix in _YAML and path.is_file() and is_recipe_of_pipeline(_content(path))
    if path.is_file() and not is_file:
        taken = "the file of that name"
    file = path if is_file else known_recipes().get(given)
    names = _names(file) if file else [given]
    found = {name: folder for name in names if (folder := _finished(name, stage))}
    if taken:
        for folder in found.values():
            note(
                f"{given}: {taken} is taken, not what the recipe {given} made last; give the "
                f"recipe's file, or {folder}"
            )
        return None
    if len(names) > 1:
        raise UserError(f"{given}: makes several students; give one of {', '.join(names)}")
    if not found and file:
        raise UserError(
            f"{given}: this recipe has no finished {stage} yet in {store_root()}; make it by "
            f"`ssld run {given}`"
        )
    return found.get(names[0])


def newest_images(given: str, split: str) -> Images | None:
    """The images of a split (train, val, pool, teacher) that the recipe `given` has read last; None
    as `newest_result`, and with its errors."""
    folder = newest_result(given, "data", lambda line: None)
    return folder and images_in(folder, split)


def images_in(folder: Path, split: str) -> Images:
    """The images of a split in the folder of a result of the stage `data`."""
    return read_images(folder / f"{split}.arrow", read_json(folder / ROOTS))


def _content(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path, lambda repeated: None)
    except UserError:  # which whoever reads it as something else will tell
        return {}


def _names(file: Path) -> list[str]:
    """The names under which a recipe's results are kept, one a student."""
    data = _content(file)
    name, students = str(data.get("name", file.stem)), data.get("students")
    return [f"{name}-{student}" for student in students or ()] or [name]


def _finished(name: str, stage: str) -> Path | None:
    key = last_keys(store_root(), name).get(stage) if Path(name).name == name else None
    folder = key and result_folder(store_root(), stage, key)
    return folder if folder and (folder / MANIFEST).is_file() else None
