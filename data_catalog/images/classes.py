"""Class names, and where they come from: a file, class folders, the paths and labels of a list."""
# pyright: reportAttributeAccessIssue=false

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.images.columns import NUM_EXAMPLES, ROOT, SCHEMA, Tally
from data_catalog.images.formats import text_of
from data_catalog.images.found import Found

_NUMBERED = re.compile(r"([+-]?[0-9]{1,99})[\s,;:]\s*(\S.*)")
_ENDS_IN_NUMBER = re.compile(r"\S[\s,;:]\s*([0-9]{1,9})$")
MAX_CLASSES = 1_000_000  # without class names the greatest label counts them: a typo must not


Numbers = dict[str, int]  # name of a class -> its number


def numbers_of(names: Sequence[str]) -> Numbers:
    """The numbers of classes whose names are in order."""
    return {name: number for number, name in enumerate(names)}


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a file with one a line, or of `number name` lines in any order. Raises
    UserError: no such file, no names, a blank line before one, the same name twice, or numbers
    other than 0 to the number of classes less one."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: class names cannot be read ({error}); give a text file in UTF-8"
        ) from error
    names = [line.strip() for line in text.rstrip().split("\n")]
    if not any(names):
        raise UserError(f"{path}: holds no class name; expected one a line")
    if "" in names:  # without it those that follow would be other classes
        raise UserError(
            f"{path}:{names.index('') + 1}: is blank; name the class, or remove the line"
        )
    parts = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    ends = [int(match[1]) for name in names if (match := _ENDS_IN_NUMBER.search(name))]
    if len(parts) == len(names):
        numbers = [int(part[1]) for part in parts]
        first_at = {number: at for at, number in reversed([*enumerate(numbers)])}
        for at, number in enumerate(numbers):
            if number not in range(len(numbers)) or first_at[number] < at:
                raise UserError(
                    f"{path}:{at + 1}: number {number} of '{parts[at][2]}', expected "
                    f"each of 0 to {len(numbers) - 1} once, as every line begins with a number; "
                    "correct the numbers, or remove them all"
                )
        names = [parts[line][2] for line in np.argsort(numbers)]
    elif ends != sorted(ends) == list(range(len(names))):
        raise UserError(
            f"{path}:1: number {ends[0]} stands behind the name of class 0; write `number name`"
        )
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if first.setdefault(name, label) != label:
            raise UserError(
                f"{path}: classes {first[name]} and {label} are both named '{name}'; rename one"
            )
    return tuple(names)


def is_number(text: str) -> bool:
    """Whether a name of a class is its number, of at most 9 digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


def folder_classes(found: Found) -> tuple[str, ...]:
    """Names of the class folders, or class tars without .tar, at the top of a folder or tar.

    Those that are all numbers mean these numbers; others are numbered as sorted. Raises
    UserError: the numbers are not 0 to the number of classes less one.
    """
    names = sorted(class_folders(found))
    if not names or not all(map(is_number, names)):
        return tuple(names)
    names.sort(key=int)
    numbers = list(map(int, names))
    if numbers != list(range(len(names))):
        raise UserError(
            f"{found.source}: the class folders {names[0]} to {names[-1]} are "
            f"{counted(len(names), 'number')} but not 0 to {len(names) - 1}, so their labels are "
            "not known; number them so, or give a list (or `classes`, a file with the name of a "
            "folder a line, in their order)"
        )
    return tuple(names)


def check_tops(found: Found) -> None:
    """Refuse a tar or folder at the top that cannot be read: without its class the others would be
    numbered otherwise. Raises UserError."""
    top = text_of(os.fsencode(os.path.relpath(found.source, found.images.roots[ROOT])))
    for row in found.images.damaged.to_pylist():
        path = Path(row["image_id"])
        if path.parent == Path(top) and path.name not in found.tops:
            raise UserError(
                f"{found.source}: '{row['image_id']}' {row['detail']}: the images of a class would "
                "be missing, and later classes get other numbers"
            )


def class_folders(found: Found) -> set[str]:
    """Names of the folders at the top of a folder or tar, and of the tars without .tar."""
    return set(map(_class_of, found.tops))


def _class_of(top: str) -> str:
    return re.sub(r"(?i)\.tar$", "", top)


def with_folder_labels(found: Found, classes: Sequence[str]) -> Found:
    """Images of a folder or tar labelled by the class folder that they lie in, at any depth;
    what lies in none is passed over."""
    inside = text_of(os.fsencode(os.path.relpath(found.source, found.images.roots[ROOT])))
    pattern = "^" + ("" if inside == "." else re.escape(inside) + "/") + "(?P<top>[^/]+)/"
    numbers, table, tally = numbers_of(classes), found.images.table, Tally()
    known = {top: numbers[name] for top in found.tops if (name := _class_of(top)) in numbers}
    tops = pc.struct_field(pc.extract_regex(table["image_id"], pattern), "top")
    places = pc.index_in(tops, pa.array(known, pa.string()))
    labels = pa.array(known.values(), pa.int32()).take(places)
    at, mask = SCHEMA.get_field_index("label"), labels.is_valid()
    outside = table["image_id"].filter(pc.invert(mask))
    tally.add_all(found.images.passed_over)
    if len(outside):
        tally.add("outside_classes", outside[:NUM_EXAMPLES].to_pylist(), len(outside))
    table = table.set_column(at, SCHEMA.field(at), labels).filter(mask)
    images = replace(found.images, table=table, passed_over=tally.result())
    return replace(found, images=images, changed=found.changed[mask.to_numpy()])


def folders_of_list(found: Found) -> Numbers:
    """The number that a list gives the folders of its images, where each folder has one and there
    are two or more: else the folders are no classes, and none is there."""
    column = found.images.table["image_id"]
    parents = pc.struct_field(pc.extract_regex(column, "(?P<name>[^/]+)/[^/]+$"), "name")
    table = pa.table({"name": parents, "label": found.images.table["label"]})
    rows = table.group_by(["name", "label"]).aggregate([]).to_pylist()
    numbers = {row["name"]: row["label"] for row in rows}
    if None in numbers or len(numbers) < len(rows) or len(set(numbers.values())) < 2:
        return {}
    return numbers


def check_agreement(numberings: Mapping[Path, Numbers]) -> None:
    """Refuse two files or folders that give one class different numbers: a UserError names both."""
    for (one, a), (other, b) in combinations(numberings.items(), 2):
        for name in sorted(name for name in a.keys() & b if a[name] != b[name]):
            raise UserError(
                f"class '{name}' is number {a[name]} in {one} and {b[name]} in {other}; make them "
                "equal (or give `classes`, a file with the name of a class a line, in the order of "
                "the labels)"
            )


def numbered_classes(found: Found) -> tuple[str, ...]:
    """Class names where none are given: 0 to the greatest label of a list."""
    labels = found.images.labels
    row = int(np.argmax(labels))
    if labels[row] >= MAX_CLASSES:
        raise UserError(
            f"{found.at(row)}: label {labels[row]}, expected a class number under {MAX_CLASSES:,}"
        )
    return tuple(map(str, range(int(labels[row]) + 1)))


def check_labels(found: Found, num_classes: int, source: str) -> None:
    """Refuse a label that is none of the classes; -1 of a row without label is none either."""
    labels = found.images.table["label"].fill_null(0).to_numpy()
    for row in np.flatnonzero((labels < 0) | (labels >= num_classes))[:1].tolist():
        raise UserError(
            f"{found.at(row)}: label {labels[row]} of '{found.images.ids[row]}' is none of the "
            f"{num_classes} classes of {source} (0 to {num_classes - 1}); correct the list or "
            f"{source}"
        )
