"""Image sets for tests: small JPEGs of noise, good and bad."""

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from data_catalog.images.columns import Images, image_table, loose_images


def write_jpeg(path: Path, seed: int, height: int = 40, width: int = 48) -> None:
    """A JPEG of coarse noise that depends on `seed` alone."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def image_set(folder: Path, num: int, num_classes: int = 3, bad: tuple[int, ...] = ()) -> Images:
    """`num` JPEGs in `folder`, labelled 0, 1, ... in turn; those at rows `bad` are cut short."""
    for row in range(num):
        path = folder / f"{row:03}.jpg"
        write_jpeg(path, row)
        if row in bad:
            path.write_bytes(path.read_bytes()[:-100])
    names = [f"{row:03}.jpg" for row in range(num)]
    labels = np.arange(num, dtype=np.int32) % num_classes
    return loose_images(folder, names, labels)


def images_at(paths: Mapping[str, Path]) -> Images:
    """The files `paths` by image id, wherever they lie, as an image set; labels are unknown."""
    names = [os.fsencode(str(path.absolute())[1:]) for path in paths.values()]
    sizes = [path.stat().st_size if path.is_file() else -1 for path in paths.values()]
    column = pa.array(names, pa.binary()).dictionary_encode()
    return Images(image_table(list(paths), sizes, "root", path=column), {"root": "/"})


def write_lists(folder: Path) -> None:
    """train.txt of 12 pictures in `folder`/images, of three brightnesses that are their classes,
    and val.txt of the first six of them."""
    (folder / "images").mkdir()
    rng, lines = np.random.default_rng(0), []
    for row in range(12):
        picture = np.full((40, 40, 3), 80 * (row % 3), np.uint8)
        noisy = picture + rng.integers(0, 60, picture.shape, np.uint8)
        cv2.imwrite(str(folder / "images" / f"{row}.png"), noisy)
        lines.append(f"{row}.png {row % 3}\n")
    (folder / "train.txt").write_text("".join(lines))
    (folder / "val.txt").write_text("".join(lines[:6]))
