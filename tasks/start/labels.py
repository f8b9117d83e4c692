"""The labels of `ssld init --labels`: `path label` lines, or a table of files and their classes.

Tables are CSV, or separated by semicolons, tabs or blanks, with or without a head; their classes
have names. Which column has the files is seen by what lies in the folder.
"""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.images.classes import is_number
from data_catalog.images.formats import IMAGE_SUFFIXES

MAX_BYTES = 1 << 30  # of a table, which is read whole
NUM_TRIED = 200  # lines that say what a list is, and which of its columns has the files
SEPARATORS = (",", ";", "\t")
CLASS_HEADS = ("label", "labels", "class", "class_name", "classname", "category", "species", "name")
_LINE = re.compile(rb"\s*(\S|\S.*[^\s,;])\s+-?[0-9]{1,9}\s*")  # `path label`
_REMEDY = "expected `path label` lines, labels from 0 on, or a table of two columns: file, class"


@dataclass(frozen=True)
class Labelled:
    """Files by their paths below a folder, each with the number of its class in `classes`."""

    paths: tuple[str, ...]
    numbers: tuple[int, ...]
    classes: tuple[str, ...]

    def lines(self) -> str:
        """As a list of `path label` lines."""
        rows = zip(self.paths, self.numbers, strict=True)
        return "".join(f"{path} {number}\n" for path, number in rows)


def read_table(source: Path, folder: Path) -> Labelled | None:
    """The files of a table and their classes, in the order of their names, or of numbers; None of a
    list of `path label` lines.

    Raises UserError: neither; a file stands there twice, or without a class; none of the files lies
    in `folder`.
    """
    try:
        with source.open("rb") as file:
            lines = list(islice((line for line in file if line.strip()), NUM_TRIED))
            if all(_LINE.fullmatch(line) for line in lines) or b"\0" in b"".join(lines):
                return None  # what is wrong with it the reader of lists will tell
            file.seek(0)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); give a list") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"{source}: more than {MAX_BYTES:,} bytes; {_REMEDY}")
    rows = list(_rows(data, source))
    start, at = _column_of_files(rows, source, folder)
    other = _column_of_classes(rows, start, at, source)
    found = dict[str, tuple[int, str]]()
    for number, row in rows[start:]:
        path, name = _found(row[at], folder) or _below(row[at], folder), row[other].strip()
        if path.startswith("/"):
            raise UserError(
                f"{source}:{number}: {path} does not lie in {folder}; give the folder of all files"
            )
        if not name:
            raise UserError(f"{source}:{number}: {path} has no class; give it one, or no line")
        if path in found:
            raise UserError(
                f"{source}:{number}: {path} stands in line {found[path][0]} too; keep one of them"
            )
        found[path] = number, name
    names = {name for _, name in found.values()}
    classes = tuple(sorted(names, key=int if all(map(is_number, names)) else None))
    numbers = {name: number for number, name in enumerate(classes)}
    return Labelled(tuple(found), tuple(numbers[name] for _, name in found.values()), classes)


def _rows(data: bytes, source: Path) -> Iterable[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not blank; all have as many cells, two or more."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is no text in UTF-8 ({error}); save it as such") from error
    lines = re.split(r"\r\n?|\n", text)
    filled = [line for line in lines if line.strip()]
    separator = next((one for one in SEPARATORS if all(one in line for line in filled)), None)
    if separator is None:
        cells = ((number, line.split()) for number, line in enumerate(lines, 1))
    else:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        cells = ((reader.line_num, row) for row in reader)
    width = None
    for number, row in cells:
        if not "".join(row).strip():
            continue
        width = width or len(row)
        if len(row) != width or width < 2:
            columns = f", as line 1 has {width}" if width > 1 else ""
            raise UserError(f"{source}:{number}: {counted(len(row), 'column')}{columns}; {_REMEDY}")
        yield number, row


def _column_of_files(
    rows: Sequence[tuple[int, list[str]]], source: Path, folder: Path
) -> tuple[int, int]:
    """(first row behind the head, column whose cells are files in `folder`)."""
    tried = [row for _, row in rows[: NUM_TRIED + 1]]
    num = [sum(bool(_found(row[at], folder)) for row in tried) for at in range(len(tried[0]))]
    at = max(range(len(num)), key=lambda column: num[column])
    if not num[at]:
        raise UserError(
            f"{source}: none of its files lies in {folder} (a line: {', '.join(rows[-1][1])})"
            f"{meant(source, folder, rows[-1][1])}"
        )
    head, others = tried[0], [set(cells) for cells in zip(*tried[1:], strict=True)]
    is_head = (
        len(rows) > 1
        and not _found(head[at], folder)
        and not head[at].lower().endswith(IMAGE_SUFFIXES)
        and not any(cell in cells for cell, cells in zip(head, others, strict=True))
    )
    return int(is_head), at


def meant(source: Path, folder: Path, names: Iterable[str]) -> str:
    """Where files called `names` lie in place of `folder`, and what to do, as a sentence's end."""
    below = sorted(path for path in folder.glob("[!.]*/") if path.is_dir())
    for other in (*below, source.resolve().parent, Path.cwd(), folder.resolve().parent):
        if any(_found(name, other) for name in names):
            return f"; they lie in {other}: ssld init {other} --labels {source}"
    return "; paths are relative to the folder given: correct it, or the list"


def _found(cell: str, folder: Path) -> str:
    """The path below `folder` of the file that a cell names, perhaps without .jpg; "" without."""
    try:
        path = _below(cell, folder)
        ends = () if path.startswith("/") else ("", *IMAGE_SUFFIXES)
        return next((path + end for end in ends if (folder / (path + end)).is_file()), "")
    except (OSError, ValueError):  # a text that is no name
        return ""


def _column_of_classes(
    rows: Sequence[tuple[int, list[str]]], start: int, files: int, source: Path
) -> int:
    others = [at for at in range(len(rows[0][1])) if at != files]
    if len(others) > 1 and start:
        heads = [rows[0][1][at].strip().lower().replace(" ", "_") for at in others]
        named = [at for at, head in zip(others, heads, strict=True) if head in CLASS_HEADS]
        others = named or others
    if len(others) > 1:
        given = ", ".join(rows[0][1])
        raise UserError(
            f"{source}: which of its columns has the classes? ({given}) Keep the file and the "
            "class alone, or call that column `class`"
        )
    return others[0]


def _below(cell: str, folder: Path) -> str:
    """A path as relative to `folder`, written as here."""
    path = Path(cell.strip())
    if "\\" in cell and not os.path.exists(folder / path):  # noqa: PTH110 - a path of Windows
        path = Path(cell.strip().replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(folder.absolute()):
        path = path.relative_to(folder.absolute())
    return path.as_posix()
