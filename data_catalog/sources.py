"""What a data set is (`Dataset`, `Splits`), and the kind that lies on disk as image files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of
from data_catalog.images.lists import (
    BATCH,
    Rows,
    class_folders,
    file_sizes,
    read_classes,
    read_folder,
    read_list,
    read_planted,
)
from data_catalog.images.manifest import SCHEMA, Manifest, Roots

LABELLED = ("train", "val", "teacher")
MAX_CLASSES = 1_000_000  # without class names the greatest label counts them: a typo must not
Progress = Callable[[int, int], None]  # (images done, images in all)


@dataclass(frozen=True)
class Splits:
    """What a data set consists of; a split that it does not have is None.

    `teacher` is what a teacher learns from where that is not `train`. `roots` maps the rows' `root`
    to a folder. `planted` is the truth of duplicates hidden in the pool: string columns `pool_id`,
    `val_id` (image ids of those splits) and `transform`.
    """

    train: Manifest | None
    val: Manifest | None
    pool: Manifest | None
    roots: Roots
    planted: pa.Table | None
    teacher: Manifest | None = None


class Dataset(Protocol):
    """A data set that has been found and whose settings are valid."""

    @property
    def name(self) -> str:
        """Its name, which is also the `root` of its manifests' rows."""
        ...

    def fingerprint(self) -> str:
        """sha256 (hex) that changes when `build` would give other images or labels."""
        ...

    def build(self, out: Path, progress: Progress) -> Splits:
        """Its manifests; images that have to be made are written under `out`."""
        ...


class FilesConfig(Config):
    """A data set of image files. Paths are relative to `root`, which may hold `${ENV_VAR}`.

    A split is a list file (`path label` a line) or a folder: of class folders for train, val and
    teacher; of images at any depth, taken without labels, for the pool.
    """

    kind: Literal["files"]
    root: str
    train: str | None = None
    val: str | None = None
    pool: str | None = None
    teacher: str | None = None  # what the teacher learns from, where that is not train
    classes: str | None = None  # one name a line or `index name`; else folder names, else numbers
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

    def fingerprint(self) -> str:
        """sha256 (hex) over class names, paths, labels, sizes and planted truth.

        It does not depend on where the root lies. Images are asked for their size and never
        opened; a missing one counts as one of size -1. Raises UserError as `build` does.
        """
        splits = self.build(self.root, lambda done, total: None)
        manifests = [splits.train, splits.val, splits.pool, splits.teacher]
        tables = [*(m and m.table for m in manifests), splits.planted]
        classes = [m and list(m.classes) for m in manifests]
        digests = [None if table is None else _digest(table) for table in tables]
        return digest_of([self.name, classes, digests])

    def build(self, out: Path, progress: Progress) -> Splits:
        """The manifests; nothing is written to `out`. A missing image gets size -1.

        Raises:
            UserError: a list that is absent, empty, repeats a path or lacks a label; a label
                outside the classes; other class folders in val than in train; a planted name
                that is not there.
        """
        names = self._class_names()
        given = ((split, getattr(self.config, split)) for split in (*LABELLED, "pool"))
        rows = {split: self._read(split, self.root / path, names) for split, path in given if path}
        classes = names or _numbers(rows)
        if classes:
            for split_rows in rows.values():
                _check_labels(split_rows, len(classes), self.config.classes)
        total = sum(map(len, rows.values()))
        tick = _counter(progress, total)
        found = {split: self._manifest(r, classes, tick) for split, r in rows.items()}
        planted = None
        if self.config.planted:
            planted = read_planted(self.root / self.config.planted, found["pool"], found["val"])
        train, val, pool = found.get("train"), found.get("val"), found.get("pool")
        roots = {self.name: str(self.root)}
        return Splits(train, val, pool, roots, planted, found.get("teacher"))

    def _class_names(self) -> tuple[str, ...]:
        """Names from the classes file, else the class folders' names, else ()."""
        paths = {s: self.root / p for s in LABELLED if (p := getattr(self.config, s))}
        folders = {split: class_folders(path) for split, path in paths.items() if path.is_dir()}
        names = next(iter(folders.values()), ())
        given = bool(self.config.classes)
        if self.config.classes:
            names = read_classes(self.root / self.config.classes)
        for split, found in folders.items():
            strange = set(found) - set(names)
            absent = set(names) - set(found) if not given else set()
            if strange or absent:
                other = self.config.classes or "train"
                raise UserError(
                    f"{paths[split]}: other class folders than the classes of {other}: only in "
                    f"{split} {_some(strange)}, only in {other} {_some(absent)}; make them equal"
                )
        return names

    def _read(self, split: str, source: Path, names: tuple[str, ...]) -> Rows:
        if source.is_dir():
            rows = read_folder(source, self.root, None if split == "pool" else names)
        elif source.is_file():
            rows = read_list(source)
        else:
            raise UserError(
                f"data set '{self.name}': no list file or folder {source}; correct `{split}`, "
                f"which is relative to `root` ({self.root}), or `root`"
            )
        if not len(rows):
            raise UserError(
                f"data set '{self.name}': {source} names no image; fill it or remove `{split}`"
            )
        if split != "pool" and rows.labels.null_count:
            row = int(np.argmax(rows.labels.is_null().to_numpy()))
            raise UserError(
                f"{rows.at(row)}: '{rows.paths[row]}' has no label ({rows.labels.null_count:,} of "
                f"{len(rows):,} lines lack one); `{split}` needs lines of `path label`"
            )
        return rows

    def _manifest(
        self, rows: Rows, classes: tuple[str, ...], tick: Callable[[int], None]
    ) -> Manifest:
        sizes = file_sizes(self.root, rows.paths, tick)
        columns = [rows.paths, pa.repeat(self.name, len(rows)), rows.paths, sizes, rows.labels]
        return Manifest(pa.table(columns, schema=SCHEMA), classes)


def _some(names: set[str]) -> str:
    """The first names of a set for a message."""
    shown = ", ".join(sorted(names)[:10]) or "none"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def _numbers(rows: Mapping[str, Rows]) -> tuple[str, ...]:
    """Class names where none are given: 0 to the greatest label of train, or else of val."""
    labelled = rows.get("train") or rows.get("val")
    if labelled is None:
        return ()
    row = int(np.argmax(labelled.labels.to_numpy()))
    top = labelled.labels[row].as_py()
    if top >= MAX_CLASSES:
        raise UserError(
            f"{labelled.at(row)}: label {top}, expected a class number under {MAX_CLASSES:,}"
        )
    return tuple(map(str, range(top + 1)))


def _check_labels(rows: Rows, num_classes: int, classes_file: str | None) -> None:
    labels = rows.labels.fill_null(0).to_numpy()
    for row in np.flatnonzero((labels < 0) | (labels >= num_classes))[:1]:
        source = classes_file or "the training split"
        raise UserError(
            f"{rows.at(int(row))}: label {labels[row]} of '{rows.paths[int(row)]}' is none of the "
            f"{num_classes} classes of {source} (0 to {num_classes - 1}); correct the list or those"
        )


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return tick


def _digest(table: pa.Table) -> str:
    """sha256 (hex) of a table's values, whatever its chunks."""
    digest = hashlib.sha256()
    for start in range(0, len(table), BATCH):
        for column in table.slice(start, BATCH).columns:
            if pa.types.is_string(column.type):
                digest.update("\0".join(column.to_pylist()).encode())
            else:
                digest.update(column.fill_null(-1).to_numpy().tobytes())
            digest.update(b"\0\0")
    return digest.hexdigest()
