"""The images within a tar, which stay there: name, offset and size of each, from the headers."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
MAX_DEPTH = 8  # of tars within tars
MAX_LINKS = 40  # followed one after the other, as Linux does
UNPACK = "is compressed, and tars are read in place; uncompress it"
SPARSE = "has holes, which are not kept in place; pack the tar without --sparse"


@dataclass(frozen=True)
class TarImages:
    """`images`: path in the tar -> (offset, size in bytes), in the tar's order; of members of one
    name the last, which tar unpacks. `damaged`: (path, reason, detail) of what cannot be read, b""
    for the tar itself."""

    images: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    damaged: list[tuple[bytes, str, str]] = field(default_factory=list)


def read_tar(path: Path, suffixes: tuple[str, ...]) -> TarImages:
    """Members of the tar `path` that end in one of `suffixes`, those of tars within it as well.

    Links to members are followed. What is wrong is said in `damaged`; nothing is raised.
    """
    found = TarImages()
    try:
        with path.open("rb") as file:
            walk = _Walk(file, suffixes, found)
            walk.through(b"", 0, path.stat().st_size)
            walk.follow_links()
    except OSError as error:
        found.damaged.append((b"", "damaged_tar", f"cannot be read: {error.strerror or error}"))
    return found


@dataclass(frozen=True)
class _Walk:
    """Through one file: the tar and the tars within it. `links`: path -> where it points to."""

    file: BinaryIO
    suffixes: tuple[str, ...]
    found: TarImages
    links: dict[bytes, bytes] = field(default_factory=dict)

    def through(self, folder: bytes, start: int, end: int) -> None:
        """Take the members of the tar between two offsets, which is called `folder`."""
        try:
            self.file.seek(start)
            with tarfile.open(fileobj=self.file, mode="r:") as archive:
                for member in archive:
                    archive.members.clear()  # type: ignore[attr-defined] - it keeps each for ever
                    name = _join(folder, re.sub(r"^(\./)+", "", member.name))
                    _check(member, name, end)
                    self._take(member, name, folder)
                    ends = member.offset_data + member.size
                    if member.isreg() and not member.issparse() and ends > end:
                        raise tarfile.ReadError(f"ends within {_text(name)}")
                self._check_end(archive.offset, end)
        except Exception as error:  # noqa: BLE001 - of many kinds, when headers are damaged
            detail = f"read as a tar without compression: {error}"
            self.found.damaged.append((folder, "damaged_tar", detail))

    def _take(self, member: tarfile.TarInfo, name: bytes, folder: bytes) -> None:
        low = os.fsdecode(name).lower()
        if member.isreg() and low.endswith(".tar") and low.count(".tar/") < MAX_DEPTH:
            self.through(name, member.offset_data, member.offset_data + member.size)
        elif member.isreg() and low.endswith(COMPRESSED):
            self.found.damaged.append((name, "compressed_tar", UNPACK))
        elif not low.endswith(self.suffixes):
            return
        elif member.issparse():
            self.found.damaged.append((name, "sparse_member", SPARSE))
        elif member.isreg():
            self.found.images[name] = (member.offset_data, member.size)
        elif member.islnk() or member.issym():
            base = posixpath.dirname(name) if member.issym() else folder
            target = posixpath.join(base, os.fsencode(member.linkname))
            self.links[name] = posixpath.normpath(target)

    def follow_links(self) -> None:
        """Give each link the place of the member that it leads to."""
        for name, first in self.links.items():
            target = first
            for _ in range(MAX_LINKS):
                target = self.links.get(target, target)
            if target in self.found.images:
                self.found.images[name] = self.found.images[target]
            else:
                detail = f"a link to {_text(target)}, which is not there"
                self.found.damaged.append((name, "missing", detail))

    def _check_end(self, offset: int, end: int) -> None:
        """Python stops without a word at a header that is none."""
        self.file.seek(offset)
        if offset >= end or self.file.read(512).count(0) < 512:
            raise tarfile.ReadError(f"neither a header nor the end mark at byte {offset:,}")


def _check(member: tarfile.TarInfo, name: bytes, end: int) -> None:
    if member.size < 0:  # the next header would be an earlier one
        raise tarfile.ReadError(f"{_text(name)} has {member.size} bytes")
    if member.offset >= end:
        raise tarfile.ReadError("it has no end mark")


def _join(folder: bytes, name: str) -> bytes:
    return folder + b"/" + os.fsencode(name) if folder else os.fsencode(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
