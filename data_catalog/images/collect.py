"""The images that a path stands for: one door for folders, lists and tars."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.words import counted, reason_in_words
from data_catalog.images.columns import Images, PassedOver
from data_catalog.images.folders import TarReader, read_archive, read_folder
from data_catalog.images.formats import HEAD, Kind, kind_of
from data_catalog.images.found import Count, Found
from data_catalog.images.identity import Contents, Progress, cache_folder
from data_catalog.images.lists import read_list
from data_catalog.images.members import with_members
from data_catalog.images.tars import UNPACK, read_tar


def collect(
    given: Path, cache: Path | None = None, progress: Progress = lambda done, total: None
) -> Images:
    """The images of a folder, a list file or a tar, with their contents.

    Ids are relative to the folder itself, or to that of the list or tar. A label of the list is
    kept. `cache` is a folder of contents read before, by default `identity.cache_folder()`. Raises
    UserError: nothing there, no image there, a compressed tar, or an id twice.
    """
    contents = Contents(cache or cache_folder())
    found = find(given, given if given.is_dir() else given.parent, contents.tar, Counter(progress))
    if not len(found.images) and not len(found.images.damaged):
        lost = describe_lost(found.images.passed_over)
        raise UserError(f"{given}: holds no image and no tar of images{lost and '; '}{lost}")
    return contents.of(found, Counter(progress, len(found.images)))


def find(
    given: Path, root: Path, tars: TarReader, count: Count, delimiter: str | None = None
) -> Found:
    """The images of a folder, a list file or a tar; ids and a list's paths are relative to `root`.
    A list may name members of tars, as TAR/member. Raises UserError: nothing there, an image, a
    compressed tar, a bad list, or an id twice."""
    if given.is_dir():
        return read_folder(given, root, tars, count)
    kind = kind_of_file(given)
    if kind == "image":
        raise UserError(f"{given}: is an image; give its folder, or a list file that names it")
    if kind == "compressed_tar":
        raise UserError(f"{given}: {UNPACK}")
    if kind == "tar":
        return read_archive(given, root, tars, count)
    return with_members(read_list(given, root, count, delimiter), tars)


def kind_of_file(file: Path) -> Kind:
    """The kind of a file, by its name and its first bytes. Raises UserError: it cannot be read."""
    if not file.is_file():
        raise UserError(f"{file}: no folder, list file or tar there; correct the path")
    try:
        with file.open("rb") as opened:
            return kind_of(os.fsencode(file.name), partial(opened.read, HEAD))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


headers_only = partial(read_tar, with_contents=False)
"""A TarReader for those who only need to know where the images are."""


class Counter:
    """Adds up images for a Progress, of `total`; while they are found that is not known."""

    def __init__(self, progress: Progress, total: int | None = None) -> None:
        self._progress, self._total, self._num = progress, total, 0

    def __call__(self, more: int) -> None:
        self._num += more
        self._progress(self._num, self._total or self._num)


def describe(images: Images) -> str:
    """A set in words: "1,389 images; passed over 12 files: 9 not an image (README.txt, ...)"."""
    tars = sum(entry.count for entry in images.passed_over if entry.reason == "tar")
    said = counted(len(images), "image") + (f", {counted(tars, 'tar')} read" if tars else "")
    lost = describe_lost(images.passed_over, images.damaged.to_pylist())
    return f"{said}; {lost}" if lost else said


def describe_lost(
    passed_over: Sequence[PassedOver], damaged: Sequence[Mapping[str, str]] = ()
) -> str:
    """The files met that are no image, in words; "" if there are none. Tars are no loss."""
    lost = [entry for entry in passed_over if entry.reason != "tar" and entry.count]
    kinds = [f"{entry.count:,} {reason_in_words(entry.reason)} ({_some(entry)})" for entry in lost]
    parts = []
    if kinds:
        num = sum(entry.count for entry in lost)
        parts.append(f"passed over {counted(num, 'file')}: {', '.join(kinds)}")
    if damaged:
        shown = [
            f"{row['image_id']}: {reason_in_words(row['reason'])}, {row['detail']}"
            for row in damaged[:3]
        ]
        more = ["..."] if len(damaged) > len(shown) else []
        parts.append(f"damaged {len(damaged):,}: {'; '.join([*shown, *more])}")
    # On one line, with what steers a terminal written out.
    printable = (
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in "; ".join(parts)
    )
    return "".join(printable)


def _some(entry: PassedOver) -> str:
    shown = entry.examples[:3]
    return ", ".join(shown) + (", ..." if entry.count > len(shown) else "")
