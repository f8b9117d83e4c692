"""One image as the duplicate search sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_catalog.images.columns import Source
from ppcls_core.data.decode import decoded, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features.hashes import pixel_digest, thumbnail
from ppcls_core.dedup.features.sift import Features, extract, reduce, shrink

Find = Callable[[Iterable[str]], Mapping[str, Source]]  # ids -> where those images are


@dataclass(frozen=True)
class DescribedImage:
    """An image as the search needs it: its `size` (width, height), the `grey` reduced copy
    (uint8), the digests (sha256, hex) of its file's bytes and of its pixels.

    `conclusive`: files of these pixels show the same. False where the decode dropped something
    (alpha, frames, depth, colours), and of a picture of one colour, as an empty page.
    """

    size: tuple[int, int]
    grey: np.ndarray
    bytes_digest: str
    digest: str
    conclusive: bool
    config: DedupConfig

    @cached_property
    def features(self) -> Features:
        """Those of `grey`: most of what a search costs, so taken when asked for."""
        return extract(self.grey, self.config, self.config.num_features)

    @cached_property
    def coarse(self) -> Features:
        """Features of a smaller copy, in the pixels of `grey`, for the coarse search."""
        small = shrink(self.grey, self.config.coarse_side)
        found = extract(small, self.config, self.config.coarse_features)
        zoom = self.grey.shape[1] / small.shape[1]
        return Features(
            found.points * np.array([zoom, zoom, zoom, 1], np.float32), found.descriptors
        )

    @cached_property
    def thumb(self) -> np.ndarray:
        """uint8 [THUMB, THUMB] copy of `grey`."""
        return thumbnail(self.grey)


def describe(source: Source, config: DedupConfig) -> DescribedImage:
    """Read and describe one image. Raises BadImage."""
    data = read_bytes(source)
    whole = decoded(data)
    image = whole.pixels
    grey = reduce(image, config)
    size = (image.shape[1], image.shape[0])
    bytes_digest = hashlib.sha256(data).hexdigest()
    is_blank = grey.min() == grey.max() and bool((image == image[0, 0]).all())
    conclusive = not whole.dropped and not is_blank
    return DescribedImage(size, grey, bytes_digest, pixel_digest(image), conclusive, config)
