"""One image as the duplicate search describes it: reduced copies, SIFT features, perceptual hashes.

Coordinates are continuous: x to the right, y down, the origin at the outer corner of the top left
pixel (a pixel's centre is at +0.5), so that resizing is a pure scaling. Features are RootSIFT's;
those of the mirror image come without a second extraction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from data_catalog.base.threads import cached_attribute
from data_catalog.images.columns import Source
from ppcls_core.data.decode import decoded, read_bytes
from ppcls_core.dedup.config import DedupConfig

DIMENSION = 128  # 4 rows x 4 columns x 8 orientations
LONG_SIDE = 4  # x `side`: bound on the long side of panoramas
GRID = 4  # cells a side over which the keypoints are spread,
ROUND = 4  # so many of each cell at a time
THUMB = 128  # pixels a side; pictures are squeezed to a square
NUM_POSES = 8  # the square's symmetries: four turns of the picture and of its mirror image
Find = Callable[[Iterable[str]], Mapping[str, Source]]  # ids -> where those images are


@dataclass(frozen=True)
class Features:
    """Keypoints of one picture: `points` float32 [n, 4] (x, y, size, angle in radians, clockwise
    from the x axis), `descriptors` uint8 [n, 128]."""

    points: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def part(self, count: int) -> Features:
        """The first `count` of them."""
        return Features(self.points[:count], self.descriptors[:count])

    def __add__(self, other: Features) -> Features:
        points = np.concatenate([self.points, other.points])
        return Features(points, np.concatenate([self.descriptors, other.descriptors]))


def reduce(image: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Grey uint8 copy of an RGB picture [H, W, 3] at the size at which features are taken."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    short, long = sorted(grey.shape)
    scale = min(max(1.0, config.min_side / short), config.side / short)
    scale = min(scale, LONG_SIDE * config.side / long)
    if scale == 1:
        return grey
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(grey, (width, height), interpolation=how)


def shrink(grey: np.ndarray, side: int) -> np.ndarray:
    """The picture with a short side of at most `side` pixels."""
    scale = side / min(grey.shape)
    if scale >= 1:
        return grey
    size = [max(1, round(length * scale)) for length in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def extract(grey: np.ndarray, config: DedupConfig, count: int) -> Features:
    """Features of a grey uint8 picture, at most `count`, the strongest of each region first; so the
    first of them stand for the whole picture.

    Lowe 2004; RootSIFT: Arandjelovic and Zisserman 2012.
    """
    sift = cv2.SIFT.create(
        nfeatures=2 * count,
        contrastThreshold=config.contrast_threshold,
        enable_precise_upscale=True,
    )
    keypoints, raw = sift.detectAndCompute(grey, None)
    if not keypoints:
        return Features(np.zeros((0, 4), np.float32), np.zeros((0, DIMENSION), np.uint8))
    rows = [(*k.pt, k.size, k.angle, k.response) for k in keypoints]
    table = np.array(rows, np.float64)
    table[:, :2] += 0.5
    table[:, 3] = np.radians(table[:, 3])
    kept = _spread(table, grey.shape, count)
    return Features(table[kept, :4].astype(np.float32), _root(raw[kept]))


def _spread(table: np.ndarray, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Rows of the `count` keypoints to keep: the strongest of each grid cell before others, so that
    lettering laid over a picture does not push out the rest of it."""
    height, width = shape
    column = np.clip(table[:, 0] * GRID / width, 0, GRID - 1).astype(int)
    row = np.clip(table[:, 1] * GRID / height, 0, GRID - 1).astype(int)
    order = np.lexsort((table[:, 3], table[:, 1], table[:, 0], -table[:, 4]))
    rank = np.zeros(len(table), int)
    for cell in range(GRID * GRID):
        members = order[(row * GRID + column)[order] == cell]
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank[order] // ROUND, kind="stable")][:count]


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Hellinger-mapped descriptors as uint8 (unit length times 512, clipped)."""
    total = descriptors.sum(axis=1, keepdims=True)
    return np.minimum(np.sqrt(descriptors / np.maximum(total, 1)) * 512 + 0.5, 255).astype(np.uint8)


_BINS = np.arange(DIMENSION).reshape(4, 4, 8)
# Bins of the original patch that those of the altered patch equal. The patch's frame is turned so
# that its dominant gradient lies on the x axis. Mirroring the picture flips that frame's y axis:
# the rows of cells swap and each orientation is negated. A negative turns the frame by 180 degrees.
MIRROR = _BINS[::-1][:, :, -np.arange(8) % 8].reshape(-1)
NEGATE = _BINS[::-1, ::-1].reshape(-1)


def mirror(features: Features, width: float) -> Features:
    """Features of the left-right mirrored picture, `width` pixels wide."""
    points = features.points.copy()
    points[:, 0] = width - points[:, 0]
    points[:, 3] = np.pi - points[:, 3]
    return Features(points, features.descriptors[:, MIRROR])


def negate(features: Features) -> Features:
    """Features of the picture's negative."""
    points = features.points.copy()
    points[:, 3] += np.pi
    return Features(points, features.descriptors[:, NEGATE])


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

    @cached_attribute
    def features(self) -> Features:
        """Those of `grey`: most of what a search costs, so taken when asked for."""
        return extract(self.grey, self.config, self.config.num_features)

    @cached_attribute
    def coarse(self) -> Features:
        """Features of a smaller copy, in the pixels of `grey`, for the coarse search."""
        small = shrink(self.grey, self.config.coarse_side)
        found = extract(small, self.config, self.config.coarse_features)
        zoom = self.grey.shape[1] / small.shape[1]
        return Features(
            found.points * np.array([zoom, zoom, zoom, 1], np.float32), found.descriptors
        )

    @cached_attribute
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
    turn = np.array([[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]])  # np.rot90: right edge to the top
    mirrored = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    turns = np.linalg.matrix_power(turn, index // 2)
    return mirrored @ turns if index % 2 else turns


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
