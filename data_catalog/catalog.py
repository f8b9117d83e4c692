"""The catalog: a name from datasets.yaml, or a YAML file of one's own, to a data set.

dataset = load_dataset("clothing", {"root": "/data/clothing"}, base=Path())
splits = dataset.build(Path("work"), lambda done, total: None)
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from data_catalog.base.config import UserError, closest, closest_path, load_yaml, parse
from data_catalog.sources import Dataset, FilesConfig

VARIABLE = r"\$\{(\w+)\}"
DATASETS = Path(__file__).with_name("datasets.yaml")


def load_dataset(name: str, options: Mapping[str, object], base: Path) -> Dataset:
    """The data set `name`: an entry of datasets.yaml, or a YAML file that holds one such entry.

    `options` replace fields of the entry. Relative paths of `name` and of `options` start from the
    folder `base`; a relative `root` in a YAML file, datasets.yaml too, starts from that file.

    Raises UserError: no such entry, file, setting, environment variable or root folder.
    """
    is_file, where = name.endswith((".yaml", ".yml")), f"data set '{name}'"
    path = base / name if is_file else DATASETS
    entries = {name: load_yaml(path)} if is_file else load_yaml(DATASETS)
    if name not in entries:
        raise UserError(
            f"no data set '{name}' in {DATASETS.name}{closest(name, entries)}; for data of your "
            "own give the path of a .yaml file"
        )
    config = parse(FilesConfig, {**entries[name], **options}, where)
    root = (base if "root" in options else path.parent) / _expand(config.root, where)
    if not root.is_dir():
        near = closest_path(root, Path.is_dir)
        raise UserError(
            f"{where}: root {root} is no folder; correct `root` ('{config.root}'){near}"
        )
    return Dataset(path.stem if is_file else name, config, root.absolute())


def _expand(text: str, where: str) -> str:
    """`text` with each `${NAME}` replaced from the environment."""
    for name in re.findall(VARIABLE, text):
        if not os.environ.get(name):
            raise UserError(
                f"{where}: the environment variable {name} is not set; point it at the data "
                f"(export {name}=/path/to/data), or set `root`"
            )
    return re.sub(VARIABLE, lambda match: os.environ[match[1]], text)
