"""The parts of a data set (`Splits`), and the kind of image files on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of
from data_catalog.images.classes import (
    Numbering,
    check_agreement,
    check_labels,
    class_folders,
    folder_classes,
    folders_of_list,
    numbered_classes,
    read_classes,
    with_folder_labels,
)
from data_catalog.images.collect import Counter, describe, find
from data_catalog.images.columns import Images
from data_catalog.images.found import Found
from data_catalog.images.identity import Contents, Progress, cache_folder, content_digest
from data_catalog.images.planted import read_planted

SPLITS = ("train", "val", "teacher", "pool")


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

    kind: Literal["files"]
    root: str
    train: str | None = None
    val: str | None = None
    pool: str | None = None
    teacher: str | None = None  # what the teacher learns from, where that is not train
    classes: str | None = None  # one name a line or `number name`; else folder names, else numbers
    delimiter: str | None = None  # between path and label in lists, where it is no white space
    planted: str | None = None  # csv: pool_image,val_image,transform

    @model_validator(mode="after")
    def _check_splits(self) -> FilesConfig:
        if not (self.train or self.val or self.pool):
            raise ValueError("a data set needs at least one of train, val and pool")
        if self.planted and not (self.val and self.pool):
            raise ValueError("planted duplicates need both val and pool")
        return self


@dataclass(frozen=True)
class FilesDataset:
    """A data set of files that lie under the absolute folder `root`."""

    name: str
    config: FilesConfig
    root: Path
    is_made: ClassVar[bool] = False  # whether `build` makes the images

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
        """The image sets; nothing is written to `out`. A missing image gets size -1.

        Raises UserError: a list that is absent, empty, repeats a path or lacks a label; a label
        outside the classes; two sources that disagree about a class; a planted name not there.
        """
        contents = Contents(cache_folder())
        count = Counter(progress)
        found = {
            split: self._find(split, self.root / path, contents, count)
            for split in SPLITS
            if (path := getattr(self.config, split))
        }
        classes = self._classes(found)
        for split, part in found.items():
            if split != "pool" and part.lines is None:
                names = self._names_of(split, part, classes)
                found[split] = with_folder_labels(part, self.root, names)
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

    def _find(self, split: str, source: Path, contents: Contents, count: Counter) -> Found:
        if not source.exists():
            raise UserError(
                f"data set '{self.name}': no list file or folder or tar {source}; "
                f"correct `{split}`, which is relative to `root` ({self.root}), or `root`"
            )
        found = find(source, self.root, contents.tar, count, self.config.delimiter)
        if not len(found.images):
            raise UserError(
                f"data set '{self.name}': {source} names no image; fill it or remove `{split}` "
                f"(found: {describe(found.images)})"
            )
        return found

    def _classes(self, found: dict[str, Found]) -> tuple[str, ...]:
        """Names from the classes file, else the class folders' names, else numbers, else ()."""
        labelled = {split: part for split, part in found.items() if split != "pool"}
        lists = {split: part for split, part in labelled.items() if part.lines is not None}
        folders = {split: part for split, part in labelled.items() if part.lines is None}
        numberings = [n for part in lists.values() if (n := folders_of_list(part))]
        if self.config.classes:
            path = self.root / self.config.classes
            names = read_classes(path)
            check_agreement([_numbering(path, names), *numberings])
            return names
        if folders:
            first = next(iter(folders.values()))
            names = folder_classes(first)
            numbers = _numbering(first.source, names)
            check_agreement([numbers, *numberings])
            if lists and not names[0].isdigit():
                _check_common(numbers, lists, numberings)
            return names
        check_agreement(numberings)
        first_list = lists.get("train") or lists.get("val")
        return numbered_classes(first_list) if first_list else ()

    def _names_of(self, split: str, found: Found, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the class folders of a split, in the order of the classes."""
        names = set(folder_classes(found)) if not self.config.classes else class_folders(found)
        if not names:
            raise UserError(
                f"{found.source}: holds no class folders or class tars, which `{split}` needs: "
                "put the images of each class into one, or give a list"
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
            raise UserError(
                f"{found.at(row)}: '{found.images.ids[row]}' has no label ({len(null):,} of "
                f"{len(found.images):,} lines lack one); `{split}` needs lines of `path label`"
            )
        if classes:
            check_labels(found, len(classes), self.config.classes or "the training split")


def _numbering(source: Path, names: tuple[str, ...]) -> Numbering:
    return Numbering(str(source), {name: label for label, name in enumerate(names)})


def _check_common(folders: Numbering, lists: dict[str, Found], numberings: list[Numbering]) -> None:
    """Refuse a list of numbers beside folders of names that have nothing in common."""
    known = {n.source for n in numberings if set(n.numbers) & set(folders.numbers)}
    for part in lists.values():
        if str(part.source) not in known:
            raise UserError(
                f"{part.source} numbers the classes and {folders.source} names them; which number "
                "is which name is not known: give `classes`, a file with the name of a class a "
                "line, in the order of the numbers"
            )


def _some(names: set[str]) -> str:
    """The first names of a set for a message."""
    shown = ", ".join(sorted(names)[:10]) or "none"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
