"""One image as the duplicate search sees it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_core.data.decode import BadImage, decode, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.hashes import pixel_digest, thumbnail
from ppcls_core.dedup.sift import Features, extract, reduce


class Member(NamedTuple):
    """An image within a tar, which is read in place: `size` bytes from `offset` on."""

    archive: Path
    offset: int
    size: int


Source = Path | Member


@dataclass(frozen=True)
class Picture:
    """What the search knows of one image: its `size` (width, height), the `grey` reduced copy
    (uint8), the digests (sha256, hex) of its file's bytes and of its pixels, its `features`."""

    size: tuple[int, int]
    grey: np.ndarray
    bytes_digest: str
    digest: str
    features: Features

    @cached_property
    def thumb(self) -> np.ndarray:
        """uint8 [THUMB, THUMB] copy of `grey`."""
        return thumbnail(self.grey)


def read_source(source: Source) -> bytes:
    """The bytes of an image file. Raises BadImage (`missing`, `empty`, `truncated`)."""
    if isinstance(source, Path):
        return read_bytes(source)
    try:
        with source.archive.open("rb") as file:
            file.seek(source.offset)
            data = file.read(source.size)
    except OSError as error:
        raise BadImage("missing", error.strerror or str(error)) from error
    if not source.size:
        raise BadImage("empty", "the file has 0 bytes")
    if len(data) < source.size:
        raise BadImage("truncated", f"{source.archive.name} ends within it")
    return data


def describe(source: Source, config: DedupConfig) -> Picture:
    """Read and describe one image. Raises BadImage."""
    data = read_source(source)
    image = decode(data)
    grey = reduce(image, config)
    size = (image.shape[1], image.shape[0])
    bytes_digest = hashlib.sha256(data).hexdigest()
    return Picture(size, grey, bytes_digest, pixel_digest(image), extract(grey, config))
