"""The images that a command is given, one after another."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_catalog.base.config import UserError, closest_path
from data_catalog.images.collect import describe_lost, find, headers_only, kind_of_file
from data_catalog.images.columns import Images, Source, Tally, loose_images
from data_catalog.images.formats import HEAD, text_of
from data_catalog.images.lists import read_list
from ppcls_core.data.decode import read_image
from ppcls_core.data.transforms import Preprocess

STDIN = "-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An image to be classified, which may not be there."""

    number: int
    """Its place among all of them, from 0."""
    name: str
    """Its path as it was given; bytes that are not UTF-8 are written out (\\xff)."""
    source: Source
    label: int | None

    def pixels(self, preprocess: Preprocess) -> np.ndarray:
        """uint8 [3, S, S]. Raises BadImage."""
        return preprocess(read_image(self.source))


@dataclass(frozen=True)
class Given:
    """The images that a command is given: sets, each with what its ids are relative to."""

    sets: Sequence[tuple[Path, Images]]

    def __len__(self) -> int:
        return sum(len(images) for _, images in self.sets)

    def __iter__(self) -> Iterator[Picture]:
        number = 0
        for folder, images in self.sets:
            for start in range(0, len(images), 1024):
                part = images.part(start, start + 1024)
                rows = zip(part.ids, part.sources(), part.labels.tolist(), strict=True)
                for name, source, label in rows:
                    shown = text_of(os.fsencode(folder / name))
                    yield Picture(number, shown, source, None if label < 0 else label)
                    number += 1

    @property
    def lost(self) -> str:
        """Files met that are no image, in words; "" if there is nothing."""
        tally = Tally()
        for folder, images in self.sets:
            tally.add_all(images.passed_over, "" if folder == Path() else f"{folder}/")
        damaged = [row for _, images in self.sets for row in images.damaged.to_pylist()]
        return describe_lost(tally.result(), damaged)


def given_images(given: Sequence[str]) -> Given:
    """The images that `given` names, in its order.

    A folder or tar stands for the images in it at any depth, STDIN for what standard input lists;
    a file that is neither image nor tar is a list. A list has a line an image, `path` or
    `path label`, the path relative to the list's folder (that of standard input to the current).

    A name that is no file is an image that cannot be read; of the first a warning says which may be
    meant. Raises UserError: there is no image at all.
    """
    missing = [name for name in given if name != STDIN and not Path(name).exists()]
    for name in missing[:1]:
        if near := closest_path(Path(name)):
            _log.warning(f"{name}: no such file or folder{near}")
    found = Given([_found(name) for name in given])
    if not len(found):
        places = ", ".join("standard input" if name == STDIN else name for name in given)
        raise UserError(
            f"no image in {places}; expected images, folders or tars of them, or a list with a "
            f"path a line{found.lost and '; '}{found.lost}"
        )
    return found


def _found(given: str) -> tuple[Path, Images]:
    """(what ids are relative to, the images)."""
    path = Path(given)
    if given == STDIN:
        data = sys.stdin.buffer.read()
        source = Path("standard input")
        return Path(), read_list(source, Path(), _ignore, strict=False, data=data).images
    if path.is_dir():
        return path, find(path, path, headers_only, _ignore).images
    if path.exists() and not path.is_file():  # a pipe
        data = path.read_bytes()
        return path.parent, read_list(path, path.parent, _ignore, strict=False, data=data).images
    kind = kind_of_file(path) if path.exists() else "image"
    if kind == "image" or (kind == "not_an_image" and _is_binary(path)):
        return path.parent, loose_images(path.parent, [path.name])
    if kind == "not_an_image":
        return path.parent, read_list(path, path.parent, _ignore, strict=False).images
    return path.parent, find(path, path.parent, headers_only, _ignore).images


def _is_binary(path: Path) -> bool:
    """Whether a file holds what no list does: then it is an image of a kind that is not known."""
    with path.open("rb") as file:
        return b"\0" in file.read(HEAD)


def _ignore(more: int) -> None:
    """Nobody waits for the count."""
