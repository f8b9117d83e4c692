"""A data set: image files in lists, folders and tars, as sets of images with their classes."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from data_catalog.base.config import Config, UserError, closest
from data_catalog.base.errors import settings_named
from data_catalog.base.files import digest_of
from data_catalog.base.words import counted
from data_catalog.images.classes import (
    Numbers,
    check_agreement,
    check_labels,
    check_tops,
    class_folders,
    folder_classes,
    folders_of_list,
    numbered_classes,
    numbers_of,
    read_classes,
    with_folder_labels,
)
from data_catalog.images.collect import Counter, describe, find
from data_catalog.images.columns import Images
from data_catalog.images.found import Found
from data_catalog.images.identity import Contents, Progress, cache_folder, content_digest
from data_catalog.images.lists import label_hint

SPLITS = ("train", "val", "teacher", "pool")
PLANTED = ("pool_image", "val_image", "transform")
PLANTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("pool_id", "val_id", "transform")])


@dataclass(frozen=True)
class Splits:
    """The parts of a data set; a split that it does not have is None.

    `teacher` is what a teacher learns from where that is not `train`. `planted` (PLANTED_SCHEMA) is
    the truth of duplicates hidden in the pool.
    """

    train: Images | None = None
    val: Images | None = None
    pool: Images | None = None
    planted: pa.Table | None = None
    teacher: Images | None = None


class FilesConfig(Config):
    """A data set of image files. Paths are relative to `root`, which may hold `${ENV_VAR}`.

    A split is a list file (`path label` a line), a folder, or a tar. For train, val and teacher
    that holds a folder or tar a class; for the pool images and tars at any depth, taken without
    labels.
    """

    kind: Literal["files"] = "files"  # the one kind that there is
    root: str  # folder in which all else lies; a relative one starts from this file
    train: str | None = None  # labelled images to learn from
    val: str | None = None  # labelled images to measure with
    pool: str | None = None  # unlabelled images
    teacher: str | None = None  # what the teacher learns from, where that is not train
    classes: str | None = None  # one name a line or `number name`; else folder names, else numbers
    delimiter: str | None = None  # between path and label in lists, where it is no white space
    planted: str | None = None  # csv: pool_image,val_image,transform

    @model_validator(mode="after")
    def _check_splits(self) -> FilesConfig:
        if not (self.train or self.val or self.pool):
            raise ValueError("a data set needs at least one of train, val and pool: add one")
        if self.planted and not (self.val and self.pool):
            raise ValueError("planted duplicates need both val and pool")
        return self


@dataclass(frozen=True)
class Dataset:
    """A data set: its files lie under the absolute folder `root`, or that of `roots` for a split,
    whose list may have a delimiter of its own in `delimiters`.

    `num_classes` is how many classes lists have without `config.classes`, by default as many as
    the greatest training label asks for. `keys` are what the user calls the settings `train`,
    `val`, `train.root`, `train.delimiter` and so on, `num_classes` and `classes` where they are
    called otherwise; empty: there is no such setting.
    """

    name: str  # for messages
    config: FilesConfig
    root: Path
    roots: Mapping[str, Path] = field(default_factory=dict, hash=False)
    delimiters: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    num_classes: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict, hash=False)

    def fingerprint(self, splits: Splits | None = None) -> str:
        """sha256 (hex) over ids, labels, contents and class names of each split, over what was
        passed over, and over the planted truth.

        It depends neither on the data set's name nor on where it lies. Raises as `build`.
        """
        splits = splits or self.build(self.root, lambda done, total: None)
        sets = (splits.train, splits.val, splits.pool, splits.teacher)
        digests = [images and content_digest(images) for images in sets]
        counts = [images and [[p.reason, p.count] for p in images.passed_over] for images in sets]
        truth = None if splits.planted is None else splits.planted.to_pydict()
        return digest_of([digests, counts, truth])

    def build(self, out: Path, progress: Progress) -> Splits:
        """The image sets; nothing is written to `out`. A missing image gets size -1. Raises
        UserError: a list that is absent, empty, repeats a path or lacks a label; a label outside
        the classes; two sources that disagree about a class; a planted name not there."""
        contents = Contents(cache_folder())
        count = Counter(progress)
        found = {
            split: self._find(split, path, contents, count)
            for split in SPLITS
            if (path := getattr(self.config, split))
        }
        with settings_named(lambda name: self.keys.get(name, name)):
            classes = self._classes(found)
        for split, part in found.items():
            if split != "pool" and part.lines is None:
                names = self._names_of(split, part, classes)
                found[split] = with_folder_labels(part, names)
            self._check(split, found[split], classes)
        count = Counter(progress, sum(len(part.images) for part in found.values()))
        sets = {
            split: replace(contents.of(part, count), classes=classes)
            for split, part in found.items()
        }
        planted = None
        if self.config.planted:
            planted = read_planted(self.root / self.config.planted, sets["pool"], sets["val"])
        return Splits(**sets, planted=planted)

    def _key(self, name: str) -> str:
        """The setting `name` as the user calls it."""
        return self.keys.get(name, name.rpartition(".")[2])

    def _delimiter(self, split: str) -> str | None:
        return self.delimiters.get(split, self.config.delimiter)

    def _find(self, split: str, path: str, contents: Contents, count: Counter) -> Found:
        root = self.roots.get(split, self.root)
        source = root / path
        if not source.exists():
            key, root_key = self._key(split), self._key(f"{split}.root")
            start = f", which is relative to `{root_key}` ({root}), or `{root_key}`"
            raise UserError(
                f"data set '{self.name}': no list file or folder or tar {source}; correct `{key}`"
                + start * (not Path(path).is_absolute())
            )
        with settings_named(lambda name: self.keys.get(f"{split}.{name}", name)):
            found = find(source, root, contents.tar, count, self._delimiter(split))
        if not len(found.images):
            raise UserError(
                f"data set '{self.name}': {source} names no image; fill it or remove "
                f"`{self._key(split)}` (found: {describe(found.images)})"
            )
        return found

    def _classes(self, found: dict[str, Found]) -> tuple[str, ...]:
        """Names from the classes file, else the class folders' names, else numbers, else ()."""
        labelled = [(split, part) for split, part in found.items() if split != "pool"]
        lists = {split: part for split, part in labelled if part.lines is not None}
        folders = [part for _, part in labelled if part.lines is None]
        numbers = {part.source: folders_of_list(part) for part in lists.values()}
        if self.config.classes:
            path = self.root / self.config.classes
            names = read_classes(path)
            check_agreement({path: numbers_of(names)} | numbers)
            return names
        if folders:
            first = folders[0]
            names = folder_classes(first)
            check_agreement({first.source: numbers_of(names)} | numbers)
            if lists and not names[0].isdigit():
                _check_common(first.source, names, numbers)
            if self.num_classes not in (None, len(names)):
                held = counted(
                    len(names), "class folder or class tar", "class folders or class tars"
                )
                raise UserError(
                    f"{first.source}: holds {held}, expected the {self.num_classes} of "
                    f"`{self._key('num_classes')}`: correct that, or give a list"
                )
            return names
        check_agreement(numbers)
        if self.num_classes:
            return tuple(map(str, range(self.num_classes)))
        first_list = lists.get("train") or lists.get("val")
        return numbered_classes(first_list) if first_list else ()

    def _names_of(self, split: str, found: Found, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the class folders of a split, in the order of the classes."""
        check_tops(found)
        names = set(folder_classes(found)) if not self.config.classes else class_folders(found)
        if not names:
            raise UserError(
                f"{found.source}: holds no class folders or class tars, which `{self._key(split)}` "
                "needs: put the images of each class into one, or give a list"
            )
        numbers = tuple(map(str, range(len(classes))))
        if self.config.classes and names <= set(numbers) and not names & set(classes):
            return numbers
        strange = names - set(classes)
        absent = set(classes) - names if not self.config.classes else set()
        if strange or absent:
            other = self.config.classes or "train"
            raise UserError(
                f"{found.source}: other class folders than the classes of {other}: only in "
                f"{split} {_some(strange)}, only in {other} {_some(absent)}; make them equal"
            )
        return classes

    def _check(self, split: str, found: Found, classes: tuple[str, ...]) -> None:
        null = np.flatnonzero(found.images.table["label"].is_null().to_numpy())
        if not len(found.images):
            raise UserError(
                f"{found.source}: no class folder holds an image (found: {describe(found.images)})"
            )
        if split != "pool" and len(null):
            row = int(null[0])
            line, key = found.images.ids[row], self._key(f"{split}.delimiter")
            raise UserError(
                f"{found.at(row)}: '{line}' has no label ({len(null):,} of "
                f"{len(found.images):,} lines lack one); `{self._key(split)}` needs lines of `path "
                f"label`{label_hint(line, self._delimiter(split), key)}"
            )
        if classes and split != "pool":  # a pool's labels, if any, are not used
            number = f"`{self._key('num_classes')}`"
            source = number if self.num_classes else "the training split"
            check_labels(found, len(classes), self.config.classes or source)


def _check_common(folder: Path, names: Sequence[str], lists: Mapping[Path, Numbers]) -> None:
    """Refuse a list of numbers beside folders of names that have nothing in common."""
    for path in [path for path, numbers in lists.items() if numbers.keys().isdisjoint(names)]:
        raise UserError(
            f"{path} numbers the classes and {folder} names them; which number is which name is "
            "not known: give two lists or two folders (or `classes`, a file with the name of a "
            "class a line, in the order of the numbers)"
        )


def _some(names: set[str]) -> str:
    """The first names of a set for a message."""
    shown = ", ".join(sorted(names)[:10]) or "none"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def read_planted(path: Path, pool: Images, val: Images) -> pa.Table:
    """Truth of planted duplicates from a csv file with the columns PLANTED, as PLANTED_SCHEMA.
    Raises UserError: other columns, or an image that is neither an id nor a unique file name
    there."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, records = reader.fieldnames, list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: planted duplicates cannot be read ({error})") from error
    if set(columns or ()) != set(PLANTED):
        raise UserError(f"{path}: got columns {columns}, expected {','.join(PLANTED)}")
    pool_names, val_names, transforms = ([r[name] or "" for r in records] for name in PLANTED)
    ids = [_ids_of(path, pool_names, pool, "pool"), _ids_of(path, val_names, val, "val")]
    return pa.table([*ids, transforms], schema=PLANTED_SCHEMA)


def _ids_of(path: Path, names: list[str], images: Images, split: str) -> list[str]:
    """The image ids that `names`, ids or unique file names, stand for."""
    column = images.table["image_id"]
    wanted = pa.array(sorted(set(names)), pa.string())
    known = set(column.filter(pc.is_in(column, wanted)).to_pylist())
    file_names = pc.replace_substring_regex(column, r"^.*/", "")
    table = pa.table({"name": file_names, "id": column})
    by_name: dict[str, list[str]] = {}
    for row in table.filter(pc.is_in(file_names, wanted)).to_pylist():
        by_name.setdefault(row["name"], []).append(row["id"])
    found = []
    for number, name in enumerate(names, start=2):
        ids = [name] if name in known else by_name.get(name, [])
        if len(ids) != 1:
            got = f"stands for {counted(len(ids), 'image')}" if ids else "is not there"
            raise UserError(
                f"{path}:{number}: '{name}' {got} in the {split} split; give the path that its "
                f"list gives{closest(name, by_name)}"
            )
        found += ids
    return found
