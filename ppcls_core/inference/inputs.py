"""The images that a command is given, one after another: there may be millions, so none is kept."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.images.lists import IMAGE_SUFFIXES
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.data.transforms import Preprocess

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
STDIN = "-"
_LABEL = re.compile(rb"^(.*\S)\s+([0-9]{1,9})$")


@dataclass(frozen=True)
class Picture:
    """An image file, which may not be there."""

    number: int
    """Its place among all of them, from 0."""
    path: Path
    label: int | None

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 are written out (\\xff)."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def pixels(self, preprocess: Preprocess) -> np.ndarray:
        """uint8 [3, S, S]. Raises BadImage."""
        # Of a pipe or a device reading might never end.
        if self.path.exists() and not self.path.is_file():
            raise BadImage("not_an_image", "is a folder or a device")
        return preprocess(read_image(self.path))


def pictures(given: Sequence[str]) -> Iterator[Picture]:
    """The images that `given` names, in its order.

    A folder stands for the images in it at any depth, sorted within each folder; STDIN for what
    standard input lists; a file that is no image is a list. A list has a line an image, `path` or
    `path label`, the path relative to the list's folder (that of standard input to the current).

    Raises:
        UserError: there is no image at all.
    """
    found = ((path, label) for name in given for path, label in _found(name))
    number = -1
    for number, (path, label) in enumerate(found):
        yield Picture(number, path, label)
    if number < 0:
        places = ", ".join("standard input" if name == STDIN else name for name in given)
        raise UserError(
            f"no image in {places}; expected {', '.join(SUFFIXES)}, or a list with a path a line"
        )


def _found(given: str) -> Iterator[tuple[Path, int | None]]:
    path = Path(given)
    if given == STDIN:
        yield from _listed(sys.stdin.buffer, Path())
    elif path.is_dir():
        yield from ((found, None) for found in _below(path))
    elif not path.exists() or _is_image(path):
        yield path, None
    else:
        with path.open("rb") as file:
            yield from _listed(file, path.parent)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _is_image(path: Path) -> bool:
    """By its name, or by bytes that no text has; what is not a file, such as a pipe, is a list."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0" in file.read(512)


def _listed(lines: BinaryIO | Iterable[bytes], folder: Path) -> Iterator[tuple[Path, int | None]]:
    for line in lines:
        text = line.strip()
        if text:
            parts = _LABEL.match(text)
            name, label = (parts[1], int(parts[2])) if parts else (text, None)
            yield folder / os.fsdecode(name), label
