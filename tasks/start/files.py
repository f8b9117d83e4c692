"""The files that `ssld init` writes, and writes again without losing what a user has edited.

NAME_data/init.json records what it wrote: a file with another sha256 has been edited since.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.files import csv_bytes, read_json, sha256_file, write_bytes, write_json
from data_catalog.images.classes import read_classes
from data_catalog.recipes import INIT
from tasks.start.photos import Photos, path_of
from tasks.start.recipe import machine_size, recipe_name, recipe_text

CLASSES = "classes.txt"
NAMES = (
    *("data.yaml", "pool.yaml", "train.txt", "val.txt", "pool.txt"),
    *(CLASSES, "left_out.csv"),
)  # of the files in the folder NAME_data
_REMEDY = "remove or rename it, start in another folder, or give a --name"
NUM_SHOWN = 5  # classes that a message names


@dataclass(frozen=True)
class Files:
    """Where the files go that are made of the photographs in `folder`, and which are there."""

    folder: Path  # absolute
    recipe: Path  # NAME.yaml
    data: Path  # the folder NAME_data

    @property
    def recorded(self) -> dict[str, list[str]]:
        """Digests (sha256) that each file had as it was written, by its `key`."""
        return (read_json(self.data / INIT) or {}).get("files", {})

    def key(self, path: Path) -> str:
        """The name of a file in the record."""
        return str(path.relative_to(self.recipe.parent))

    def is_edited(self, path: Path) -> bool:
        """Whether the file is there, and not as it was written."""
        return path.exists() and sha256_file(path) not in self.recorded.get(self.key(path), ())

    def list_of(self, split: str) -> set[bytes]:
        """The images, by their names in lists, of a split as it was written; none without."""
        path = self.data / f"{split}.txt"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return {line if split == "pool" else line.rpartition(b" ")[0] for line in lines}

    def class_names(self) -> set[str]:
        """The classes as they were written; none without."""
        path = self.data / CLASSES
        return set(read_classes(path)) if path.exists() else set()


def files_of(folder: Path, where: Path, name: str | None = None) -> Files:
    """The files of a recipe for `folder`, in the folder `where`; it is called as the folder is, or
    `name`.

    Raises UserError: a name that cannot be one; some are there that are not `ssld init`'s, or of
    another folder, or a list has been edited, which would be lost; an edited recipe is no obstacle,
    as `write` keeps it.
    """
    name = recipe_name(folder, name)
    files = Files(folder.resolve(), where / f"{name}.yaml", where / f"{name}_data")
    record = read_json(files.data / INIT) or {}
    if record and record["folder"] != str(files.folder):
        raise UserError(f"{files.data}: is there already, for {record['folder']}; {_REMEDY}")
    if not record and files.recipe.exists():
        raise UserError(f"{files.recipe}: is there already; {_REMEDY}")
    for path in (files.data / name for name in NAMES if not (record and name == CLASSES)):
        if files.is_edited(path):
            raise _edited(path, bool(record))
    return files


def _edited(path: Path, record: bool) -> UserError:
    edited = ", edited since `ssld init` wrote it" if record else ""
    return UserError(f"{path}: is there already{edited}; nothing was changed: {_REMEDY}")


def _name_classes(found: Photos, files: Files) -> None:
    path = files.data / CLASSES
    if found.is_numbered and path.exists():
        names = read_classes(path)
        if len(names) == len(found.classes):
            found.classes = names
            return
    if files.is_edited(path):
        raise _edited(path, record=True)


def write(found: Photos, pool: tuple[Path, Photos] | None, files: Files) -> list[str]:
    """Write lists, class names, data.yaml (and pool.yaml for a pool elsewhere), what was left out
    and why, and the recipe unless that has been edited. Returns what has changed since they were
    written before, a sentence each; nothing the first time.

    Classes of numbers alone get the names that a user has written into classes.txt. Raises
    UserError: that has been edited otherwise, which would be lost; nothing is written.
    """
    _name_classes(found, files)
    before, made = files.recorded, dict(_contents(found, pool, files))
    told = (list(_changes(found, files)) or ["the photographs are as before"]) if before else []
    kept = {}
    if files.is_edited(files.recipe):
        kept = {key: old for key, old in before.items() if key == files.key(files.recipe)}
        told.append(f"{files.recipe.name} is kept as you have edited it; rename it for a new one")
        del made[files.recipe]
    digests = {
        files.key(path): hashlib.sha256(content).hexdigest() for path, content in made.items()
    }
    # Of both, so that after a kill in between no file is taken for edited.
    _record(
        found, files, before | {key: [*before.get(key, ()), new] for key, new in digests.items()}
    )
    for path in (files.data / name for name in NAMES):
        if path not in made:
            path.unlink(missing_ok=True)  # as of a pool that is not given any more
    for path, content in made.items():
        write_bytes(path, content)
    _record(found, files, kept | {key: [new] for key, new in digests.items()})
    return told


def _record(found: Photos, files: Files, digests: Mapping[str, list[str]]) -> None:
    rows = [
        {"reason": why, "number": number, "names": names}
        for why, (number, names) in found.lost().items()
    ]
    record = {"folder": str(files.folder), "left_out": rows, "files": digests}
    write_json(files.data / INIT, record)


def _changes(found: Photos, files: Files) -> Iterator[str]:
    for split in ("train", "val", "pool"):
        old, new = files.list_of(split), set(_names(found, split))
        parts = {"more": len(new - old), "fewer": len(old - new)}
        if any(parts.values()):
            listed = " and ".join(f"{num:,} {word}" for word, num in parts.items() if num)
            yield f"{split}: {listed} than before, by their names"
    old, new = files.class_names(), set(found.classes)
    for word, names in {"new": new - old, "gone": old - new}.items():
        if names:
            more = ", ..." if len(names) > NUM_SHOWN else ""
            yield f"classes that are {word}: {', '.join(sorted(names)[:NUM_SHOWN])}{more}"


def _contents(
    found: Photos, pool: tuple[Path, Photos] | None, files: Files
) -> Iterator[tuple[Path, bytes]]:
    """Each file and its content, the recipe last."""
    places, own_pool = {"root": str(files.folder)}, len(found.rows("pool"))
    for split in ("train", "val", *["pool"] * bool(own_pool)):
        path = files.data / f"{split}.txt"
        yield path, _list(found, split)
        places[split] = str(path.resolve())
    if not own_pool and pool is None:
        places["pool"] = places["train"]
    names = "".join(f"{number} {name}\n" for number, name in enumerate(found.classes))
    path = files.data / CLASSES
    yield path, names.encode("utf-8", "replace")
    places["classes"] = str(path.resolve())
    rows = [{"image": found.images.ids[row], "reason": why} for row, why in found.left_out.items()]
    if pool:
        at, others = pool
        for row, why in others.left_out.items():
            rows.append({"image": str(at / others.images.ids[row]), "reason": why})
    yield files.data / "left_out.csv", csv_bytes(("image", "reason"), rows)
    data, pool_file = files.data / "data.yaml", files.data / ("pool.yaml" if pool else "data.yaml")
    yield data, _data_yaml(places)
    if pool:
        yield pool_file, _data_yaml({"root": str(pool[0].resolve()), "pool": "."})
    num_pool = len(pool[1].rows("pool")) if pool else own_pool
    inside = {
        key: path.relative_to(files.recipe.parent)
        for key, path in {"labelled": data, "pool": pool_file}.items()
    }
    yield files.recipe, recipe_text(found, num_pool, inside, machine_size()).encode()


def _names(found: Photos, split: str) -> list[bytes]:
    return [path_of(found.images, row) for row in found.rows(split).tolist()]


def _list(found: Photos, split: str) -> bytes:
    labels = found.label[found.rows(split)].tolist()
    lines = zip(_names(found, split), labels, strict=True)
    return b"".join(
        name + (b"" if split == "pool" else b" %d" % label) + b"\n" for name, label in lines
    )


_ABOUT = {
    "root": "all paths in the lists start here",
    "train": "`path label` a line: what is learnt from",
    "val": "what is measured with, and never learnt from",
    "classes": "`number name` a line",
    "pool": "unlabelled images",
}


def _data_yaml(places: Mapping[str, str]) -> bytes:
    about = dict(_ABOUT)
    if "train" in places and places.get("pool") == places["train"]:
        about["pool"] = "no unlabelled images are given: those of train stand in their place"
    lines = (f"# {about[key]}\n{key}: {_quoted(path)}\n" for key, path in places.items())
    return "".join(lines).encode()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
