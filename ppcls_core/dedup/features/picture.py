"""One image as the duplicate search sees it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_core.data.decode import BadImage, decode, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features.hashes import pixel_digest, thumbnail
from ppcls_core.dedup.features.sift import Features, extract, reduce, shrink


class Member(NamedTuple):
    """An image within a tar, which is read in place: `size` bytes from `offset` on."""

    archive: Path
    offset: int
    size: int


class Made(NamedTuple):
    """An image that no file holds: `make` gives the bytes of one, or raises BadImage."""

    make: Callable[[], bytes]


Source = Path | Member | Made
Find = Callable[[Iterable[str]], Mapping[str, Source]]  # ids -> where those images are
MAX_BYTES = 1 << 30  # of a file; more than any picture within the limit of pixels takes


@dataclass(frozen=True)
class Picture:
    """What the search knows of one image: its `size` (width, height), the `grey` reduced copy
    (uint8), the digests (sha256, hex) of its file's bytes and of its pixels."""

    size: tuple[int, int]
    grey: np.ndarray
    bytes_digest: str
    digest: str
    config: DedupConfig

    @cached_property
    def features(self) -> Features:
        """Those of `grey`: most of what a search costs, so taken when asked for."""
        return extract(self.grey, self.config, self.config.num_features)

    @cached_property
    def look(self) -> Features:
        """Features of a smaller copy, in the pixels of `grey`: what a search begins with."""
        small = shrink(self.grey, self.config.look_side)
        found = extract(small, self.config, self.config.look_features)
        zoom = self.grey.shape[1] / small.shape[1]
        return Features(
            found.points * np.array([zoom, zoom, zoom, 1], np.float32), found.descriptors
        )

    @cached_property
    def thumb(self) -> np.ndarray:
        """uint8 [THUMB, THUMB] copy of `grey`."""
        return thumbnail(self.grey)


def read_source(source: Source) -> bytes:
    """The bytes of an image file.

    Raises BadImage (`missing`, `empty`, `truncated`, `decompression_bomb`).
    """
    if isinstance(source, Made):
        return source.make()
    path = source if isinstance(source, Path) else source.archive
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise BadImage("missing", "no regular file")
        offset, size = source[1:] if isinstance(source, Member) else (0, status.st_size)
        if size > MAX_BYTES:
            raise BadImage("decompression_bomb", f"{size:,} bytes, at most {MAX_BYTES:,}")
        data = read_bytes(path) if isinstance(source, Path) else _part(path, offset, size)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage("missing", getattr(error, "strerror", None) or str(error)) from error
    if not size:
        raise BadImage("empty", "the file has 0 bytes")
    if len(data) < size:
        raise BadImage("truncated", f"{path.name} ends within it")
    return data


def _part(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, or fewer where the file ends."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def describe(source: Source, config: DedupConfig) -> Picture:
    """Read and describe one image. Raises BadImage."""
    data = read_source(source)
    image = decode(data)
    grey = reduce(image, config)
    size = (image.shape[1], image.shape[0])
    bytes_digest = hashlib.sha256(data).hexdigest()
    return Picture(size, grey, bytes_digest, pixel_digest(image), config)
