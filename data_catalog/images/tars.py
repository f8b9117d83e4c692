"""The images within a tar, which stay there: name, offset and size of each, from the headers."""

import hashlib
import os
import posixpath
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from data_catalog.images.columns import PassedOver, Tally
from data_catalog.images.formats import HEAD, Kind, is_hidden, kind_of, text_of

MEMBERS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("content", pa.binary(16)),
    ]
)
"""`name`: path within the tar, written as in `text_of`; the others as in `columns.SCHEMA`."""
MAX_DEPTH = 8  # of tars within tars
MAX_LINKS = 40  # followed one after the other, as Linux does
BLOCK = 512
SCAN = 1 << 20  # bytes read at a time behind an end mark
UNPACK = "is compressed, and tars are read in place; uncompress it"
SPARSE = "has holes, which are not kept in place; pack the tar without --sparse"


class Damage(NamedTuple):
    """A file that may have held images and cannot be read, as in REJECTED; `image_id` is the name
    within a tar, "" for the tar itself."""

    image_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class TarImages:
    """`table` has a row of MEMBERS for each image, in the tar's order.

    Every member but folders is a row, is passed over or is `damaged`; a tar that is damaged itself
    is named there too. `tops` are the names of the folders and tars at the top of the tar.
    """

    table: pa.Table
    passed_over: tuple[PassedOver, ...] = ()
    damaged: tuple[Damage, ...] = ()
    tops: tuple[str, ...] = ()


def read_tar(path: Path, *, with_contents: bool) -> TarImages:
    """The images of the tar `path`, those of tars within it as well; `with_contents` these are
    read, for the column `content`.

    Two tars that were joined are both read. Faults are named in `damaged`; nothing is raised.
    """
    tally, damaged = Tally(), []
    contents: list[bytes | None] = []
    try:
        with path.open("rb") as file:
            walk = _Walk(file, tally, damaged)
            walk.through(b"", 0, os.fstat(file.fileno()).st_size)
            walk.follow_links()
            places = walk.images
            if with_contents:
                contents = [content_at(file.fileno(), *place) for place in places.values()]
    except OSError as error:
        damaged.append(Damage("", "damaged_tar", f"cannot be read: {error.strerror or error}"))
        return TarImages(MEMBERS.empty_table(), tally.result(), tuple(damaged))
    offsets, sizes = zip(*places.values(), strict=True) if places else ((), ())
    columns = [list(map(text_of, places)), offsets, sizes, contents or [None] * len(places)]
    tops = tuple(sorted(map(text_of, walk.tops)))
    return TarImages(pa.table(columns, schema=MEMBERS), tally.result(), tuple(damaged), tops)


def content_at(descriptor: int, offset: int, size: int) -> bytes | None:
    """First 16 bytes of the sha256 of a part of an open file; None if it ends before."""
    digest = hashlib.sha256()
    while size > 0:
        data = os.pread(descriptor, min(size, SCAN), offset)
        if not data:
            return None
        digest.update(data)
        offset, size = offset + len(data), size - len(data)
    return digest.digest()[:16]


@dataclass(frozen=True)
class _Walk:
    """Through one file: the tar and the tars within it.

    `images`: path -> (offset, size); `hidden` likewise, no rows until a link leads there. `links`:
    path -> where it points to. `others`: path of what is no image -> the reason for which a link to
    it is passed over.
    """

    file: BinaryIO
    tally: Tally
    damaged: list[Damage]
    images: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    hidden: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    others: dict[bytes, str] = field(default_factory=dict)
    tops: set[bytes] = field(default_factory=set)

    def through(self, folder: bytes, start: int, end: int) -> None:
        """Take the members of the tar between two offsets, which is called `folder`."""
        at: int | None = start
        try:
            while at is not None:
                at = self._next_tar(self._one_tar(folder, at, end), end)
        except Exception as error:  # noqa: BLE001 - of many kinds, when headers are damaged
            detail = f"read as a tar without compression: {error}"
            self._damage(folder, "damaged_tar", text_of(detail.encode("utf-8", "surrogateescape")))

    def _one_tar(self, folder: bytes, start: int, end: int) -> int:
        """Where the end mark is."""
        self.file.seek(start)
        with tarfile.open(fileobj=self.file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined] - it keeps each for ever
                name = _join(folder, re.sub(r"^(\./|/)+", "", member.name))
                if member.size < 0:  # the next header would be an earlier one
                    raise tarfile.ReadError(f"{text_of(name)} has {member.size} bytes")
                if member.offset >= end:
                    raise tarfile.ReadError("it has no end mark")
                self._take(member, name, folder)
                ends = member.offset_data + member.size
                if member.isreg() and not member.issparse() and ends > end:
                    raise tarfile.ReadError(f"ends within {text_of(name)}")
            at = archive.offset
        # Python stops without a word at a header that is none.
        self.file.seek(at)
        if at >= end or self.file.read(BLOCK).count(0) < BLOCK:
            raise tarfile.ReadError(f"neither a header nor the end mark at byte {at:,}")
        return at

    def _next_tar(self, at: int, end: int) -> int | None:
        """The first block after the end mark at `at` that is not zero: tars may be joined."""
        self.file.seek(at)
        while at < end:
            data = self.file.read(min(SCAN, end - at))
            rest = data.lstrip(b"\0")
            if rest:
                found = at + len(data) - len(rest)
                return found - (found - at) % BLOCK
            at += len(data) or end
        return None

    def _take(self, member: tarfile.TarInfo, name: bytes, folder: bytes) -> None:
        kind = self._kind(member, name)
        if is_hidden(name):
            return self._hide(member, name, kind)
        if b"/" in name or member.isdir() or kind == "tar":
            self.tops.add(name.partition(b"/")[0])
        if member.isdir():
            self.others[name] = "same_folder"
        elif member.islnk() or member.issym():
            base = posixpath.dirname(name) if member.issym() else folder
            target = posixpath.join(base, os.fsencode(member.linkname))
            self._forget(name)
            self.links[name] = posixpath.normpath(target)
        elif not member.isreg():
            self._pass("special_file", name)
        elif kind == "compressed_tar":
            self._damage(name, kind, UNPACK)
        elif kind in ("not_an_image", "unread_format"):
            self.others[name] = kind
            self._pass(kind, name)
        elif member.issparse():
            self._damage(name, "sparse_member", SPARSE)
        elif kind == "tar":
            self._take_tar(member, name)
        else:
            self._forget(name)
            self.images[name] = (member.offset_data, member.size)

    def _kind(self, member: tarfile.TarInfo, name: bytes) -> Kind:
        def head() -> bytes:
            if not member.isreg() or member.issparse():
                return b""
            self.file.seek(member.offset_data)
            return self.file.read(min(HEAD, member.size))

        return kind_of(name, head)

    def _hide(self, member: tarfile.TarInfo, name: bytes, kind: Kind) -> None:
        if kind == "image" and member.isreg() and not member.issparse():
            self.hidden[name] = (member.offset_data, member.size)
        if not member.isdir():
            self._pass("hidden", name)

    def _take_tar(self, member: tarfile.TarInfo, name: bytes) -> None:
        self.others[name] = "same_file"
        if len(re.findall(rb"\.tar/", name)) >= MAX_DEPTH:
            return self._pass("too_deep", name)
        self._pass("tar", name)
        self.through(name, member.offset_data, member.offset_data + member.size)

    def _forget(self, name: bytes) -> None:
        """An earlier member of this name is no more: tar unpacks the last."""
        place, link = self.images.pop(name, None), self.links.pop(name, None)
        if place is not None or link is not None:
            self._pass("replaced", name)

    def follow_links(self) -> None:
        """Pass over each link to a member, and name those that lead nowhere."""
        for name, first in self.links.items():
            target = first
            for _ in range(MAX_LINKS):
                target = self.links.get(target, target)
            if target in self.images:
                self._pass("same_file", name + b" = " + target)
            elif target in self.hidden:  # as git-annex and DVC keep files
                self.images[name], self.others[target] = self.hidden.pop(target), "same_file"
            elif target in self.others:
                self._pass(self.others[target], name)
            elif kind_of(name, bytes) == "image":
                self._damage(name, "missing", f"a link to {text_of(target)}, which is not there")
            else:
                self._pass("broken_link", name)

    def _pass(self, reason: str, name: bytes) -> None:
        self.tally.add(reason, [text_of(name)])

    def _damage(self, name: bytes, reason: str, detail: str) -> None:
        self.damaged.append(Damage(text_of(name), reason, detail))


def _join(folder: bytes, name: str) -> bytes:
    return folder + b"/" + os.fsencode(name) if folder else os.fsencode(name)
