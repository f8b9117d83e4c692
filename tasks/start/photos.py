"""A look at a folder of labelled photographs: classes, splits, damage and exact copies.

Nothing is copied or changed. What is left out of training and validation has a reason.
"""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data_catalog.base.config import UserError, closest, closest_path
from data_catalog.base.threads import map_threads
from data_catalog.base.words import counted, reason_in_words
from data_catalog.images.classes import is_number
from data_catalog.images.collect import collect, describe_lost
from data_catalog.images.columns import Images
from data_catalog.images.formats import IMAGE_SUFFIXES, text_of
from data_catalog.images.found import WORKERS
from data_catalog.sources import Dataset, FilesConfig
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.runtime.randomness import generator, seed_of
from tasks.start.labels import meant, read_table

SPLIT_NAMES = {  # of folders, in any case; the first that is there is taken
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "pool": ("pool", "unlabelled", "unlabeled"),
}
MAX_DECODED = 20_000  # images of a set; of more a sample
VAL_SHARE, MAX_VAL = 0.2, 200  # of a class that become its validation images, where none are given
MIN_TRAIN = 2  # training images of a class: the least that a probe is cross-validated with
NUM_SHOWN = 3
NUM_LOOKED_AT = 100  # files of a folder, for whether it is one of images
IN_SEVERAL = "lies in several classes"  # the reason of each file of a photograph
# What `ssld init` calls the settings of a data set; it has none for a delimiter or classes.
_KEYS = {"train": "--labels", "train.delimiter": "", "classes": ""}

Progress = Callable[[int, int], None]


@dataclass
class Photos:
    """Photographs as they were found. `split` and `label` have an entry an image of `images`; a row
    that is left out has the split "" and a reason in `left_out`."""

    images: Images
    classes: tuple[str, ...]
    split: np.ndarray  # str [rows]: train, val, pool or ""
    label: np.ndarray  # int32 [rows], -1 without one
    made_val: bool = False  # whether the validation images are a part of those given for training
    left_out: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (height, width) as decoded
    notes: list[str] = field(default_factory=list)  # what the user should know, a sentence each

    @property
    def is_numbered(self) -> bool:
        """Whether the classes have numbers alone."""
        return all(map(is_number, self.classes))

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split."""
        return np.flatnonzero(self.split == split)

    def per_class(self, split: str) -> np.ndarray:
        """int64 [classes]: images of each class in a split."""
        return np.bincount(self.label[self.rows(split)], minlength=len(self.classes))

    def leave_out(self, row: int, reason: str) -> None:
        """Take a row out of its split."""
        self.split[row], self.left_out[row] = "", reason

    def reasons(self) -> dict[str, list[int]]:
        """The rows left out by reason, the commonest first."""
        found = defaultdict[str, list[int]](list)
        for row, reason in sorted(self.left_out.items()):
            found[reason.partition(":")[0]].append(row)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def lost(self) -> dict[str, tuple[int, list[str]]]:
        """How many files are in no split and the first of them, by reason: rows that were left out,
        and files that are no image."""
        ids, reasons = self.images.ids, self.reasons().items()
        rows = {why: (len(rows), [ids[row] for row in rows[:NUM_SHOWN]]) for why, rows in reasons}
        others = (one for one in self.images.passed_over if one.reason != "tar" and one.count)
        files = {
            f"file passed over: {one.reason}": (one.count, list(one.examples[:NUM_SHOWN]))
            for one in others
        }
        return rows | files

    def num_photographs(self, rows: Sequence[int]) -> int:
        """How many photographs the files of `rows` are: one where their bytes are the same."""
        return len({self.images.table["content"][row].as_py() or row for row in rows})

    def named(self, rows: Sequence[int]) -> str:
        """The first names of rows, for a message."""
        more = ", ..." if len(rows) > NUM_SHOWN else ""
        return ", ".join(self.images.ids[row] for row in rows[:NUM_SHOWN]) + more


def inspect(
    folder: Path, labels: Path | None, progress: Progress, val: Collection[bytes] = ()
) -> Photos:
    """Look at the labelled photographs in `folder`: one folder a class, or these in `train` and
    `val`; with `labels` as that list (`path label` lines, or a table of files and classes) says.

    An image that cannot be decoded is left out, and a copy, byte for byte: of copies to train on
    the first stays, of copies in train and val those in val, of copies in two classes none. Where
    no split is given for validation, some images of each class are set apart, keyed by their
    content, those with names in `val` first, which were set apart before. A class with fewer than
    MIN_TRAIN is left out. Raises UserError: no folder, fewer than two classes.
    """
    _check_folder(folder, "the folder that holds a folder a class")
    found = _listed(folder, labels) if labels else _by_folders(folder, progress)
    decode(found, found.split != "", progress)
    _leave_out_copies(found)
    if not len(found.rows("val")):
        _set_apart(found, val)
    _drop_small_classes(found, folder)
    return found


def inspect_pool(folder: Path, progress: Progress) -> Photos:
    """Look at unlabelled photographs, at any depth; `split` is pool. Raises UserError: no folder,
    no image there."""
    _check_folder(folder, "the folder that holds unlabelled images")
    images = collect(folder, progress=progress)
    num = len(images)
    found = Photos(images, (), np.full(num, "pool", object), np.full(num, -1, np.int32))
    decode(found, np.ones(num, bool), progress)
    return found


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        near = closest_path(folder, Path.is_dir)
        raise UserError(f"{folder}: no such folder; give {what}{near}")


def _listed(folder: Path, labels: Path) -> Photos:
    with TemporaryDirectory(prefix="ssld-init-") as temporary:
        table = read_table(labels, folder)
        file = labels.absolute()
        if table:
            file = Path(temporary) / labels.name
            file.write_text(table.lines())
        config = FilesConfig(root=str(folder), train=str(file))
        dataset = Dataset(labels.name, config, folder.absolute(), keys=_KEYS)
        images = dataset.build(Path(), lambda done, total: None).train
    assert images is not None
    if not np.any(images.table["size"].to_numpy() >= 0):
        first = images.ids[:NUM_SHOWN]
        raise UserError(
            f"{labels}: none of its {counted(len(images), 'file')} lies in {folder} "
            f"({', '.join(first)}, ...){meant(labels, folder, first)}"
        )
    split, classes = np.full(len(images), "train", object), table and table.classes
    return Photos(images, classes or images.classes, split, images.labels.copy())


def _by_folders(folder: Path, progress: Progress) -> Photos:
    images = collect(folder, progress=progress)
    paths = [tuple(image_id.split("/")) for image_id in images.ids]
    depth, notes = 0, list[str]()
    while (only := _only_folder(paths, depth)) is not None:
        notes.append(f"everything lies in `{only}`, which is taken for the folder itself")
        folder, depth = folder / only, depth + 1
    places = {name: _first_of(paths, depth, SPLIT_NAMES[name]) for name in SPLIT_NAMES}
    train = places["train"]
    split, names = np.full(len(paths), "", object), [""] * len(paths)
    outside: list[int] = []
    for row, parts in enumerate(paths):
        top = parts[depth] if len(parts) > depth + 1 else ""
        if top and top == places["pool"]:
            split[row] = "pool"
            continue
        given = next((s for s in ("train", "val") if train and top == places[s]), "")
        at = depth + bool(given)
        if (train and not given) or len(parts) < at + 2:
            outside.append(row)
            continue
        split[row], names[row] = given or "train", re.sub(r"(?i)\.tar$", "", parts[at])
    classes = tuple(sorted({name for name in names if name}))
    number = {name: label for label, name in enumerate(classes)}
    label = np.array([number.get(name, -1) for name in names], np.int32)
    found = Photos(images, classes, split, label, notes=notes)
    for row in outside:
        found.leave_out(row, "lies in no class folder" + " of train or val" * bool(train))
    if empty := _without_image(folder / train, {*names, *places.values()}):
        found.notes.append(f"no image lies in {', '.join(empty)}")
    if lost := describe_lost(images.passed_over, images.damaged.to_pylist()):
        found.notes.append(lost)
    return found


def _only_folder(paths: Sequence[tuple[str, ...]], depth: int) -> str | None:
    """The one folder at `depth` that holds all images, if it holds folders of them itself."""
    tops = {parts[depth] if len(parts) > depth + 1 else "" for parts in paths}
    below = {parts[depth + 1] for parts in paths if len(parts) > depth + 2}
    return tops.pop() if len(tops) == 1 and "" not in tops and len(below) > 1 else None


def _without_image(folder: Path, known: Collection[str]) -> list[str]:
    """The folders in `folder`, hidden ones aside, whose names `known` lacks."""
    names = {text_of(os.fsencode(path.name)) for path in folder.glob("*") if path.is_dir()}
    return sorted(name for name in names.difference(known) if not name.startswith("."))


def _first_of(paths: Sequence[tuple[str, ...]], depth: int, names: Sequence[str]) -> str:
    """The folder at `depth` that has the first of `names`, in any case; "" without one."""
    tops = {parts[depth].lower(): parts[depth] for parts in paths if len(parts) > depth + 1}
    return next((tops[name] for name in names if name in tops), "")


def decode(found: Photos, wanted: np.ndarray, progress: Progress) -> None:
    """Decode the rows that `wanted` (bool [rows]) marks, of many a sample, and leave out those that
    cannot be. A row whose name no list can hold is left out too."""
    rows = np.flatnonzero(wanted)
    for row in rows.tolist():
        if not _can_be_listed(path_of(found.images, row)):
            found.leave_out(row, "has a name that no list can hold")
    rows = rows[found.split[rows] != ""]
    if len(rows) > MAX_DECODED:
        found.notes.append(f"decoded {MAX_DECODED:,} of {len(rows):,} images, drawn at random")
        rows = np.sort(generator("init", "decode").choice(rows, MAX_DECODED, replace=False))

    def size(row: int) -> tuple[int, int] | BadImage:
        try:
            return read_image(found.images.source(row)).shape[:2]
        except BadImage as error:
            return error

    results = map_threads(size, rows.tolist(), WORKERS)
    for number, (row, result) in enumerate(zip(rows.tolist(), results, strict=True), start=1):
        progress(number, len(rows))
        if isinstance(result, BadImage):
            found.leave_out(row, f"cannot be read ({reason_in_words(result.reason)})")
        else:
            found.sizes[row] = result


def path_of(images: Images, row: int) -> bytes:
    """The name of an image as a list has it: bytes, TAR/member for one in a tar."""
    raw = images.table["path"][row].as_py()
    is_member = images.table["offset"][row].is_valid
    return os.fsencode(images.ids[row]) if raw is None or is_member else raw


def _can_be_listed(path: bytes) -> bool:
    return path == path.strip() and not set(path) & {0, 10, 13}


def _leave_out_copies(found: Photos) -> None:
    """Of images with the same bytes keep those of val or else one, none if their classes differ."""
    groups = defaultdict[bytes, list[int]](list)
    contents = found.images.table["content"].to_pylist()
    for row in np.flatnonzero(found.label >= 0).tolist():
        if found.split[row] and contents[row] is not None:
            groups[contents[row]].append(row)
    for rows in (rows for rows in groups.values() if len(rows) > 1):
        classes = sorted({found.classes[found.label[row]] for row in rows})
        if len(classes) > 1:
            for row in rows:
                found.leave_out(row, f"{IN_SEVERAL}: {', '.join(classes)}")
            continue
        in_val = [row for row in rows if found.split[row] == "val"]
        kept, reason = (in_val or rows)[0], "is a validation image" if in_val else "is a copy"
        for row in (row for row in rows if row != kept and row not in in_val):
            found.leave_out(row, f"{reason}: of {found.images.ids[kept]}")


def _set_apart(found: Photos, val: Collection[bytes]) -> None:
    """Make a fifth of each class, at most MAX_VAL, validation images; MIN_TRAIN stay."""
    contents = found.images.table["content"].to_pylist()
    named = range(len(contents)) if val else ()
    before = {contents[row] for row in named if path_of(found.images, row) in val}

    def order(row: int) -> tuple[bool, int]:
        return contents[row] not in before, seed_of("init", (contents[row] or b"").hex())

    for label in range(len(found.classes)):
        rows = np.flatnonzero((found.split == "train") & (found.label == label)).tolist()
        rows.sort(key=order)
        num = min(max(1, round(VAL_SHARE * len(rows))), MAX_VAL, max(len(rows) - MIN_TRAIN, 0))
        found.split[rows[:num]] = "val"
    found.made_val = True


def _drop_small_classes(found: Photos, folder: Path) -> None:
    """Leave out classes with too few images to learn from; the others are numbered anew."""
    num = found.per_class("train")
    kept = [label for label, n in enumerate(num.tolist()) if n >= MIN_TRAIN]
    if len(kept) < 2:
        if not found.classes and (beside := _holding_images(folder.resolve())):
            shown = ", ".join(beside[:NUM_SHOWN]) + ", ..." * (len(beside) > NUM_SHOWN)
            raise UserError(
                f"{folder}: holds no folder of images, but looks like the folder of one class, as "
                f"{shown} beside it: give the folder above, {folder.resolve().parent}"
            )
        names = ", ".join(found.classes[label] for label in kept) or "none"
        noted = "".join(f"; {note}" for note in found.notes)
        remedy = _deeper(folder, [found.classes[label] for label in kept]) or (
            "put the images of each class into a folder of its own, or give --labels, a list of "
            "`path label` lines"
        )
        raise UserError(
            f"{folder}: found {counted(len(kept), 'class')} with {MIN_TRAIN} images or more that "
            f"can be read ({names}), expected two or more{noted}: {remedy}"
        )
    new = {label: number for number, label in enumerate(kept)}
    for label in np.flatnonzero((num == 0) & (found.per_class("val") > 0)).tolist():
        near = closest(found.classes[label], [found.classes[other] for other in kept])
        found.notes.append(f"the class {found.classes[label]} is in val alone{near}")
    for row, label in enumerate(found.label.tolist()):
        if found.split[row] and label >= 0 and label not in new:
            name = found.classes[label]
            found.leave_out(row, f"its class has fewer than {MIN_TRAIN} images to train on: {name}")
    found.label = np.array([new.get(label, -1) for label in found.label.tolist()], np.int32)
    found.classes = tuple(found.classes[label] for label in kept)


def _deeper(folder: Path, names: Sequence[str]) -> str:
    """A remedy where the one folder that looked like a class holds those of the classes."""
    for name in names:
        below = [path for path in (folder / name).glob("[!.]*/") if next(path.glob("*"), None)]
        if len(below) > 1:
            pools = [p for p in folder.glob("*/") if p.name.lower() in SPLIT_NAMES["pool"]]
            pool = "".join(f" --pool {shlex.quote(str(path))}" for path in pools[:1])
            given = shlex.quote(str(folder / name))
            return f"{name} holds folders itself: ssld init {given}{pool}"
    return ""


def _holding_images(folder: Path) -> list[str]:
    """The folders beside `folder` in which images lie, by the names of their files."""

    def holds(other: Path) -> bool:
        first = islice(other.glob("[!.]*"), NUM_LOOKED_AT)
        return any(path.suffix.lower() in IMAGE_SUFFIXES for path in first)

    others = (path for path in folder.parent.glob("[!.]*/") if path != folder)
    return sorted(other.name for other in others if holds(other))
