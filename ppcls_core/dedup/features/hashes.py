"""Fingerprints of whole pictures: pixel digest, thumbnail, perceptual hash in eight poses."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

THUMB = 128  # pixels a side; pictures are squeezed to a square
NUM_POSES = 8  # the square's symmetries: four turns of the picture and of its mirror image


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
    """The first coefficient is the mean brightness, which tells nothing: its bit is 0."""
    above = spectrum > np.median(spectrum.reshape(-1)[1:])
    above[0, 0] = False
    return np.packbits(above.reshape(-1)).view(">u8")[0].astype(np.uint64)
