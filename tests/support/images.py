"""Image sets for tests: small JPEGs of noise, good and bad."""

from pathlib import Path

import cv2
import numpy as np

from ppcls_core.data.loader import ImageSet


def write_jpeg(path: Path, seed: int, height: int = 40, width: int = 48) -> None:
    """A JPEG of coarse noise that depends on `seed` alone."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def image_set(folder: Path, num: int, num_classes: int = 3, bad: tuple[int, ...] = ()) -> ImageSet:
    """`num` JPEGs in `folder`, labelled 0, 1, ... in turn; those at rows `bad` are cut short."""
    for row in range(num):
        path = folder / f"{row:03}.jpg"
        write_jpeg(path, row)
        if row in bad:
            path.write_bytes(path.read_bytes()[:-100])
    names = [f"{row:03}.jpg" for row in range(num)]
    labels = np.arange(num, dtype=np.int32) % num_classes
    return ImageSet([folder / name for name in names], names, labels)
