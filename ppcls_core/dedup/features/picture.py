"""One image as the duplicate search sees it: reduced copies, features, perceptual hashes."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from data_catalog.images.columns import Source
from ppcls_core.data.decode import decoded, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features.sift import Features, extract, reduce, shrink

THUMB = 128  # pixels a side; pictures are squeezed to a square
NUM_POSES = 8  # the square's symmetries: four turns of the picture and of its mirror image
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


def pixel_digest(image: np.ndarray) -> str:
    """sha256 (hex) of the decoded pixels and their shape: equal for byte-identical files and for
    lossless copies."""
    shape = repr(image.shape).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).hexdigest()


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """uint8 [THUMB, THUMB] copy of a grey picture, its aspect given up."""
    return cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)


def pose_affine(index: int) -> np.ndarray:
    """float64 [3, 3]: where pose `index` takes the points of the unit square (x right, y down).

    Odd poses are mirrored, after `index // 2` quarter turns.
    """
    affine = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    turn = np.array([[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]])  # np.rot90: right edge to the top
    for _ in range(index // 2):
        affine = turn @ affine
    if index % 2:
        affine = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]) @ affine
    return affine


def perceptual_hash(thumb: np.ndarray) -> int:
    """64 bits: which of the 8 x 8 lowest DCT coefficients lie above their median (Zauner 2010)."""
    return int(_bits(_spectrum(thumb)))


def pose_hashes(thumb: np.ndarray) -> np.ndarray:
    """uint64 [NUM_POSES]: `perceptual_hash` of the thumbnail in each pose, from one DCT."""
    spectrum = _spectrum(thumb)
    signs = np.where(np.arange(8) % 2, -1.0, 1.0).astype(np.float32)  # mirroring negates odd waves
    result = []
    for _ in range(NUM_POSES // 2):
        result += [_bits(spectrum), _bits(spectrum * signs)]
        spectrum = spectrum.T * signs[:, None]  # a quarter turn: transpose, then upside down
    return np.array(result, np.uint64)


def _spectrum(thumb: np.ndarray) -> np.ndarray:
    small = cv2.resize(thumb, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.dct(small)[:8, :8]


def _bits(spectrum: np.ndarray) -> np.uint64:
    """The first coefficient is the mean brightness, which identifies no picture: its bit is 0."""
    above = spectrum > np.median(spectrum.reshape(-1)[1:])
    above[0, 0] = False
    return np.packbits(above.reshape(-1)).view(">u8")[0].astype(np.uint64)
