"""The pipeline's recipes by name, and where the newest results of each lie.

This is all that programs which do not know the pipeline need of it:

    STORE/recipes/RECIPE.json        stage -> key of its newest result
    STORE/recipes/RECIPE.yaml        a link to the file that was run last under this name
    STORE/STAGE/KEY[:20]/            that result, with manifest.json once it is finished
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from data_catalog.base.config import YAML, closest, load_yaml, no_such_yaml, yaml_file
from data_catalog.base.errors import UserError
from data_catalog.base.files import link_to, read_json, user_folder
from data_catalog.images.columns import Images, read_images

PROJECT = Path(__file__).resolve().parents[1]
RECIPES = PROJECT / "configs" / "ssld"
MANIFEST = "manifest.json"
INIT = "init.json"  # beside a data set that `ssld init` wrote: of which folder, and what it wrote
ROOTS = "roots.json"  # of the stage `data`: where each root of its images lies
_log = logging.getLogger(__name__)


def known_recipes() -> dict[str, Path]:
    """The files of recipes by name: those that have run, and those in configs/ssld and below, which
    come first."""
    ran = {link.stem: link.resolve() for link in _of_store("yaml")}
    return ran | {path.stem: path for path in sorted(RECIPES.rglob("*.yaml"))}


def recipe_path(given: str) -> Path:
    """The file of a recipe that is given as a path, with or without its .yaml, or else by the name
    of one of `known_recipes`. Raises UserError: there is none, with those that may be meant."""
    known = known_recipes().get(given)
    if file := yaml_file(given):
        if known and known.exists() and known.resolve() != file.resolve():
            _warn(f"{given}: {file} is taken, not {known}; give the path of that to have it")
        return file.resolve()
    if known:
        return known
    if Path(given).suffix in YAML:
        raise _no_such_recipe(Path(given))
    whole = next((name for name in known_recipes() if given.startswith(f"{name}-")), "")
    if whole and given in {results.stem for results in _of_store("json")}:
        raise UserError(f"recipe '{given}': is a student of {whole}; give {whole}")
    raise UserError(f"recipe '{given}': no such file and no such recipe{near_recipe(given)}")


def _no_such_recipe(path: Path) -> UserError:
    file = known_recipes().get(path.stem)
    if file is None or not file.exists():
        return no_such_yaml(path)
    return UserError(f"{path}: no such file; give `{path.stem}` to have {file}")


@cache
def _warn(text: str) -> None:
    """Tell it once, however often the recipe is looked for."""
    _log.warning(text)


def near_recipe(given: str | Path, others: Iterable[str] = ()) -> str:
    """`; did you mean ...?` with the recipes that a misspelt `given` may mean, as `recipe_path` and
    `newest_result` take them, or `others` that it could; "" where nothing is spelt alike."""
    files = Path(given).parent.glob("[!.]*.y*ml")
    names = (str(file if Path(given).suffix in YAML else file.with_suffix("")) for file in files)
    made = (results.stem for results in _of_store("json"))
    near = closest(str(given), {*known_recipes(), *made, *names, *others})
    return near if "did you mean" in near else ""


def remember_recipe(given: str) -> None:
    """Make the name of this recipe, which begins to run, stand for its file from now on."""
    file = recipe_path(given)
    link_to(store_root() / "recipes" / f"{_name(file)}.yaml", file)


def _of_store(kind: str) -> list[Path]:
    """The files that the store has of recipes: `json` or `yaml`."""
    return sorted((store_root() / "recipes").glob(f"[!.]*.{kind}"))


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
    """The folder of the newest result of `stage` that the recipe `given`, named as for
    `recipe_path`, has made; None where nothing is called so.

    None too where `given` means something else: another file, or what `taken` says (the caller
    looks whether a folder of that name is one of what else it takes: the folder of photographs that
    a recipe is named after is not); `note` is then told of the result that it hides. Raises
    UserError: no such file; the recipe has no such result yet, or one for each of several students,
    with the command that helps.
    """
    path, file = Path(given), yaml_file(given)
    if path.suffix in YAML and file is None:
        raise _no_such_recipe(path)
    if file and not (file.suffix in YAML and is_recipe_of_pipeline(_content(file))):
        if file == path:
            taken = "the file of that name"
        file = None
    file = file or known_recipes().get(given)
    names = _names(file) if file and file.is_file() else [given]
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


def _name(file: Path) -> str:
    return str(_content(file).get("name", file.stem))


def _names(file: Path) -> list[str]:
    """The names under which a recipe's results are kept, one a student."""
    students = _content(file).get("students")
    return [f"{_name(file)}-{student}" for student in students or ()] or [_name(file)]


def _finished(name: str, stage: str) -> Path | None:
    key = last_keys(store_root(), name).get(stage) if Path(name).name == name else None
    folder = key and result_folder(store_root(), stage, key)
    return folder if folder and (folder / MANIFEST).is_file() else None
