"""One image as the duplicate search sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcls_core.data.decode import read_image
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.hashes import pixel_digest, thumbnail
from ppcls_core.dedup.sift import Features, extract, reduce


@dataclass(frozen=True)
class Picture:
    """What the search knows of one image: its `size` (width, height), the `grey` reduced copy
    (uint8), the `thumb` of that, the `digest` of its pixels and its `features`."""

    size: tuple[int, int]
    grey: np.ndarray
    thumb: np.ndarray
    digest: str
    features: Features


def describe(path: Path, config: DedupConfig) -> Picture:
    """Read and describe one image. Raises BadImage."""
    image = read_image(path)
    grey = reduce(image, config)
    size = (image.shape[1], image.shape[0])
    return Picture(size, grey, thumbnail(grey), pixel_digest(image), extract(grey, config))
