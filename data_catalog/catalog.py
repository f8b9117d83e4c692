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
from data_catalog.sources import Dataset, FilesConfig, FilesDataset, Splits

__all__ = ["Dataset", "Splits", "load_dataset"]

DATASETS = Path(__file__).with_name("datasets.yaml")


def load_dataset(name: str, options: Mapping[str, object], base: Path) -> Dataset:
    """The data set `name`: an entry of datasets.yaml, or a YAML file that holds one such entry.

    Args:
        name: entry, or path of a `.yaml` file, relative to `base`.
        options: fields of the entry to replace.
        base: folder that relative paths of `name` and of `options` start from; a relative `root` in
            a YAML file starts from that file.

    Raises UserError: no such entry, file, setting, environment variable or root folder.
    """
    is_file = name.endswith((".yaml", ".yml"))
    entry, home = (
        (load_yaml(base / name), (base / name).parent) if is_file else (_entry(name), base)
    )
    where = f"data set '{name}'"
    short = Path(name).stem if is_file else name
    data = {**entry, **options}
    kinds = {"files": FilesConfig, "photo_patches": PhotoPatchesConfig}
    kind = data.get("kind")
    if kind not in kinds:
        hint = closest(str(kind), kinds)
        raise UserError(f"{where}: setting 'kind' is {kind!r}, expected one of {list(kinds)}{hint}")
    config = parse(kinds[str(kind)], data, where)
    if isinstance(config, PhotoPatchesConfig):
        return PhotoPatches(short, config)
    assert isinstance(config, FilesConfig)
    root = (base if "root" in options else home) / _expand(config.root, where)
    if not root.is_dir():
        raise UserError(f"{where}: root {root} is no folder; correct `root` ('{config.root}')")
    return FilesDataset(short, config, root.absolute())


def _entry(name: str) -> dict[str, object]:
    entries = load_yaml(DATASETS)
    if name not in entries:
        raise UserError(
            f"no data set '{name}' in {DATASETS.name}{closest(name, entries)}; known: "
            f"{', '.join(entries)}; for data of your own give the path of a .yaml file"
        )
    return entries[name]


def _expand(text: str, where: str) -> str:
    """`text` with each `${NAME}` replaced from the environment."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise UserError(
                f"{where}: the environment variable {match[1]} is not set; point it at the data "
                f"(export {match[1]}=/path/to/data), or set `root`"
            )
        return found

    return re.sub(r"\$\{(\w+)\}", value, text)
