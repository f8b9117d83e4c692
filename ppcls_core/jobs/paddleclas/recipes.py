"""PaddleClas's training files of 2020 by their names, each a row of one table.

The table, configs/paddleclas.csv, holds what its 127 files differ in (configs/ of PaddleClas at the
end of 2020); what they share stands here, and settings that have no effect here are left out. Not
as published are the output's folder and the teacher of the flowers' distillation, which is the
training that the manual makes before it, where the file expected a copy of that.
"""

import csv
import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_catalog.base.config import UserError, override, parse_value
from data_catalog.base.words import counted

TABLE = Path(__file__).resolve().parents[3] / "configs" / "paddleclas.csv"
_IMAGENET, _FLOWERS = ("ILSVRC2012", 1000), ("flowers102", 102)  # folder, classes
_SHORT = {224: 256, 256: 256, 299: 320}  # short side, by the size that is cut out of it
_RATES = {"Piecewise": {"decay_epochs": [30, 60, 90], "gamma": 0.1}}
_DECODE = {"DecodeImage": {"to_rgb": True}}
_NORMALIZE = {
    "NormalizeImage": {
        "scale": "1./255.",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
}


def is_recipe(name: str) -> bool:
    """Whether there is a recipe of that name."""
    return name in recipe_rows()


def recipe_name(given: str) -> str:
    """The recipe that is called by its file, as in PaddleClas's manual: configs/NAME.yaml."""
    path = Path(given)
    name = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    return str(name.relative_to("configs") if name.is_relative_to("configs") else name)


@cache
def recipe_rows() -> dict[str, dict[str, str]]:
    """The table's rows by the recipe's name, such as `ResNet/ResNet50_vd`."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def recipe_text(name: str) -> str:
    """The recipe as the text of a YAML file in PaddleClas's form. Raises UserError: no such one."""
    head = f"# {name} of PaddleClas 2020, without the settings that have no effect here.\n"
    fields = json.loads(json.dumps(recipe(name)))  # no part is another's, so YAML has no aliases
    return head + yaml.safe_dump(fields, sort_keys=False, default_flow_style=None)


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe in PaddleClas's form; its files go to a folder of its own,
    `output/NAME`. Raises UserError: no such recipe, with the closest names."""
    rows = recipe_rows()
    if name not in rows:
        raise UserError(f"'{name}': no such file, and no such recipe{near_recipes(name)}")
    row = rows[name]
    size, (data, classes) = int(row["size"]), _FLOWERS if row["data"] else _IMAGENET
    fields: dict[str, Any] = {
        "ARCHITECTURE": {"name": row["architecture"] or name.rpartition("/")[2]},
        "pretrained_model": "",
        "model_save_dir": f"./output/{name}/",
        "classes_num": classes,
        "image_shape": [3, size, size],
    }
    if row["epochs"]:
        fields |= _training(row, size, data)
    resize, crop = {"ResizeImage": {"resize_short": _SHORT[size]}}, {"CropImage": {"size": size}}
    fields["VALID"] = _images(data, "val", [resize, crop])
    settings = [text for text in row["settings"].split("; ") if text]
    return override(fields, settings)


def near_recipes(name: str, others: str = "") -> str:
    """`; did you mean ...?` with the recipes that a name may mean: of that model, or with it in
    their names, or spelt alike; else `others`, or how to list them."""
    rows, last = recipe_rows(), name.rpartition("/")[2].lower()
    models = {known: known.rpartition("/")[2].lower() for known in rows}
    found = [known for known, model in models.items() if model == last]
    found = found or [known for known, model in models.items() if last in model]
    if len(found) > 3:
        num = counted(len(found), "recipe is", "recipes are")
        return f"; {num} called so in part: `ppcls recipe '*{last}*'`"
    alike = get_close_matches(last, models.values(), n=1)
    found = found or [known for known, model in models.items() if model in alike]
    if found:
        return "; did you mean " + " or ".join(f"'{each}'" for each in found) + "?"
    return others or "; `ppcls recipe --list` names them all"


def _training(row: dict[str, str], size: int, data: str) -> dict[str, Any]:
    operators: list[Any] = [{"RandCropImage": {"size": size}}, {"RandFlipImage": {"flip_code": 1}}]
    if row["augmentation"]:
        operators.append(parse_value(row["augmentation"], "augmentation"))
    train = {"batch_size": int(row["batch"]), **_images(data, "train", operators)}
    train["shuffle_seed"] = 0
    if row["mix"]:
        train["mix"] = [{f"{row['mix']}Operator": {"alpha": 0.2}}]
    fields: dict[str, Any] = {
        "save_interval": 1,
        "validate": True,
        "valid_interval": 1,
        "epochs": int(row["epochs"]),
        "topk": 5,
        "use_mix": bool(row["mix"]),
        "LEARNING_RATE": {
            "function": row["schedule"],
            "params": {"lr": float(row["lr"]), **_RATES.get(row["schedule"], {})},
        },
        "OPTIMIZER": {
            "function": "Momentum",
            "params": {"momentum": 0.9},
            "regularizer": {"function": "L2", "factor": float(row["l2"])},
        },
        "TRAIN": train,
    }
    if row["smoothing"]:
        fields["ls_epsilon"] = float(row["smoothing"])
    return fields


def _images(data: str, split: str, operators: list[Any]) -> dict[str, Any]:
    return {
        "num_workers": 4,
        "file_list": f"./dataset/{data}/{split}_list.txt",
        "data_dir": f"./dataset/{data}/",
        "transforms": [_DECODE, *operators, _NORMALIZE, {"ToCHWImage": None}],
    }
