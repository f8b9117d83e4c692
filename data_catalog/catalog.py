"""The catalog: a name from datasets.yaml, or a YAML file of one's own, to a data set.

dataset = load_dataset("clothing", {"root": "/data/clothing"}, base=Path())
splits = dataset.build(Path("work"), lambda done, total: None)
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from data_catalog.base.config import UserError, closest, load_yaml, parse
from data_catalog.photo_patches import PhotoPatches, PhotoPatchesConfig
from data_catalog.sources import FilesConfig, FilesDataset

VARIABLE = r"\$\{(\w+)\}"
DATASETS = Path(__file__).with_name("datasets.yaml")
Dataset = FilesDataset | PhotoPatches
"""A data set that has been found and whose settings are valid.

`build` gives its Splits. `fingerprint` changes when `build` would give other images or labels; the
splits spare it reading the files again, if `build` was called.
"""


def load_dataset(name: str, options: Mapping[str, object], base: Path) -> Dataset:
    """The data set `name`: an entry of datasets.yaml, or a YAML file that holds one such entry.

    `options` replace fields of the entry. Relative paths of `name` and of `options` start from the
    folder `base`; a relative `root` in a YAML file starts from that file.

    Raises UserError: no such entry, file, setting, environment variable or root folder.
    """
    is_file, where = name.endswith((".yaml", ".yml")), f"data set '{name}'"
    entries = {name: load_yaml(base / name)} if is_file else load_yaml(DATASETS)
    if name not in entries:
        raise UserError(
            f"no data set '{name}' in {DATASETS.name}{closest(name, entries)}; known: "
            f"{', '.join(entries)}; for data of your own give the path of a .yaml file"
        )
    short = Path(name).stem if is_file else name
    data = {**entries[name], **options}
    kind = data.get("kind")
    if kind == "photo_patches":
        return PhotoPatches(short, parse(PhotoPatchesConfig, data, where))
    if kind != "files":
        kinds = ["files", "photo_patches"]
        hint = closest(str(kind), kinds)
        raise UserError(f"{where}: setting 'kind' is {kind!r}, expected one of {kinds}{hint}")
    config = parse(FilesConfig, data, where)
    home = (base / name).parent if is_file and "root" not in options else base
    root = home / _expand(config.root, where)
    if not root.is_dir():
        raise UserError(f"{where}: root {root} is no folder; correct `root` ('{config.root}')")
    return FilesDataset(short, config, root.absolute())


def _expand(text: str, where: str) -> str:
    """`text` with each `${NAME}` replaced from the environment."""
    for name in re.findall(VARIABLE, text):
        if not os.environ.get(name):
            raise UserError(
                f"{where}: the environment variable {name} is not set; point it at the data "
                f"(export {name}=/path/to/data), or set `root`"
            )
    return re.sub(VARIABLE, lambda match: os.environ[match[1]], text)
