"""The embedded data set: which photograph is this a piece of?

Real photographs that scikit-image carries inside its package, cut into small pieces. A photograph
of CLASSES is a class. It is divided into 3 x 3 blocks; the blocks of a region stand in every row
and column once, and a piece is cut from one block's pixels alone, so no pixel is in two regions:

    train val   pool        train and val pieces come from their own region, the pool's from train
    val   pool  train       and pool. No image of the pool is therefore a duplicate of a val image
    pool  train val         unless planted on purpose.

The pool also holds pieces of photographs of no class, planted near-duplicates of val images and a
few files that are no usable image. A teacher may have pieces of its own, many more, from train and
pool: it stands for one that was trained elsewhere on far more data. Every file depends on (seed,
kind, photograph, index) alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of, sha256_file
from data_catalog.embedded.patch_images import (
    BAD,
    QUALITY,
    TRANSFORMS,
    bad_file,
    blocks,
    cut,
    detail,
    encode,
    relight,
)
from data_catalog.images.columns import ROOT, Images, image_table
from data_catalog.images.planted import PLANTED_SCHEMA
from data_catalog.sources import Progress, Splits

VERSION = 1  # raised when the same settings would give other images
CLASSES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
# Pictures of no class. motorcycle_right is not among them: it is the other eye's view of a class.
OTHERS = ("cell.png", "color.png", "horse.png", "logo.png", "page.png", "phantom.png", "text.png")
TRAIN, VAL, POOL = 0, 1, 2  # regions, in the order of the drawing above
# Of files; their random numbers differ.
KINDS = ("train", "val", "pool", "other", "planted", "bad", "teacher")

Job = tuple[str, int | None, Callable[[], bytes]]  # path, label, what makes the content


class PhotoPatchesConfig(Config):
    """How many pieces of which size. More pieces of any kind leave the earlier ones as they are."""

    kind: Literal["photo_patches"]
    seed: int = Field(0, ge=0)
    image_size: int = Field(128, ge=48, le=512)  # pixels a side
    train_per_class: int = Field(20, ge=1)
    val_per_class: int = Field(20, ge=1)
    pool_per_class: int = Field(80, ge=1)  # unlabelled pieces of the class photographs
    teacher_per_class: int = Field(0, ge=0)  # labelled ones that a teacher learns from; 0: train's
    pool_other: int = Field(200, ge=0)  # pieces of photographs of no class
    planted: int = Field(64, ge=0)  # near-duplicates of val images in the pool
    num_bad: int = Field(5, ge=0)  # files in the pool that are no usable image


def photo_folder() -> Path:
    """Where scikit-image keeps the photographs. Raises UserError when any of them is not there."""
    found = importlib.util.find_spec("skimage")  # scikit-image itself is never imported
    if found is None or found.origin is None:
        raise UserError(
            "data set 'photo_patches' is made of photographs inside scikit-image, which is not "
            "installed: pip install 'ssld[demo]'"
        )
    folder = Path(found.origin).parent / "data"
    absent = [n for n in (*CLASSES.values(), *OTHERS) if not (folder / n).is_file()]
    if absent:
        raise UserError(
            f"this scikit-image has no {', '.join(absent)} in {folder}, expected 0.25 or later: "
            "pip install --upgrade 'ssld[demo]'"
        )
    return folder


@cache
def _photograph(file_name: str) -> np.ndarray:
    """A photograph: uint8 BGR [H, W, 3], read once and kept."""
    from PIL import Image  # OpenCV's libpng prints a warning about the colour profile of one

    with Image.open(photo_folder() / file_name) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def piece(photo: np.ndarray, regions: tuple[int, ...], size: int, key: list[int]) -> np.ndarray:
    """The piece with this key of some regions of a photograph: BGR uint8 [size, size, 3].

    Of four squares the one with the most detail: bare sky shows nobody where it was taken.
    """
    rng = np.random.default_rng(key)
    found = blocks(photo, *regions)
    squares = [cut(found[rng.integers(len(found))], size, rng) for _ in range(4)]
    return relight(max(squares, key=detail), rng)


@dataclass(frozen=True)
class PhotoPatches:
    """The embedded data set with these settings."""

    name: str
    config: PhotoPatchesConfig
    is_made: ClassVar[bool] = True

    def fingerprint(self, splits: Splits | None = None) -> str:
        """sha256 (hex) over settings, photographs and VERSION. Raises as `photo_folder`."""
        folder = photo_folder()
        photos = [sha256_file(folder / name) for name in (*CLASSES.values(), *OTHERS)]
        return digest_of([VERSION, self.config.model_dump(), photos])

    def build(self, out: Path, progress: Progress) -> Splits:
        """The manifests, after writing every image to `out`/train, `out`/val and `out`/pool.

        One version of OpenCV gives the same bytes each time. A file that is there already is
        written again: a killed run may have left half of it.
        """
        photo_folder()
        teacher = self.config.teacher_per_class
        planted = [self._planted(index) for index in range(self.config.planted)]
        jobs = {
            "train": self._pieces("train", (TRAIN,), self.config.train_per_class),
            "val": self._pieces("val", (VAL,), self.config.val_per_class),
            **({"teacher": self._pieces("teacher", (TRAIN, POOL), teacher)} if teacher else {}),
            "pool": [
                *self._pieces("pool", (TRAIN, POOL), self.config.pool_per_class),
                *map(self._other, range(self.config.pool_other)),
                *(job for job, _ in planted),
                *map(self._bad, range(self.config.num_bad)),
            ],
        }
        everything = [job for split in jobs.values() for job in split]
        written = _write(out, everything, progress)
        found = {split: _images(split_jobs, written, out) for split, split_jobs in jobs.items()}
        truth = [{"pool_id": job[0], **truth} for job, truth in planted]
        table = pa.Table.from_pylist(truth, schema=PLANTED_SCHEMA)
        return Splits(found["train"], found["val"], found["pool"], table, found.get("teacher"))

    def _pieces(self, kind: str, regions: tuple[int, ...], per_class: int) -> list[Job]:
        def job(label: int, name: str, index: int) -> Job:
            content = partial(self._encoded, kind, regions, label, index)
            return f"{kind}/{name}_{index:05d}.jpg", None if kind == "pool" else label, content

        return [job(c, n, i) for c, n in enumerate(CLASSES) for i in range(per_class)]

    def _other(self, index: int) -> Job:
        photo = len(CLASSES) + index % len(OTHERS)
        content = partial(self._encoded, "other", (TRAIN, VAL, POOL), photo, index)
        return f"pool/other_{index:05d}.jpg", None, content

    def _planted(self, index: int) -> tuple[Job, dict[str, str]]:
        """A near-duplicate's job and its truth; transforms take turns, each over all classes."""
        step, turn = divmod(index, len(TRANSFORMS))
        label = (9 * step + turn) % len(CLASSES)
        source = step % self.config.val_per_class
        transform = list(TRANSFORMS)[turn]

        def content() -> bytes:
            image = self._piece("val", (VAL,), label, source)
            rng = np.random.default_rng([self.config.seed, KINDS.index("planted"), index])
            quality = 30 if transform == "jpeg30" else QUALITY
            return encode(TRANSFORMS[transform](image, rng), quality)

        truth = {"val_id": f"val/{list(CLASSES)[label]}_{source:05d}.jpg", "transform": transform}
        return (f"pool/copy_{index:05d}.jpg", None, content), truth

    def _bad(self, index: int) -> Job:
        def content() -> bytes:
            image = self._piece("bad", (TRAIN, POOL), index % len(CLASSES), index)
            return bad_file(BAD[index % len(BAD)], image)

        return f"pool/bad_{index:05d}.jpg", None, content

    def _piece(self, kind: str, regions: tuple[int, ...], photo: int, index: int) -> np.ndarray:
        pixels = _photograph([*CLASSES.values(), *OTHERS][photo])
        key = [self.config.seed, KINDS.index(kind), photo, index]
        return piece(pixels, regions, self.config.image_size, key)

    def _encoded(self, kind: str, regions: tuple[int, ...], photo: int, index: int) -> bytes:
        return encode(self._piece(kind, regions, photo, index))


def _images(jobs: list[Job], written: dict[str, tuple[int, bytes]], out: Path) -> Images:
    paths, labels, _ = zip(*jobs, strict=True)
    sizes, contents = zip(*(written[path] for path in paths), strict=True)
    table = image_table(paths, sizes, label=labels, content=contents)
    return Images(table, {ROOT: str(out.absolute())}, tuple(CLASSES))


def _write(out: Path, jobs: list[Job], progress: Progress) -> dict[str, tuple[int, bytes]]:
    """(size, first 16 bytes of the sha256) of each file written, by path."""
    for folder in {(out / path).parent for path, _, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)

    def write(job: Job) -> tuple[str, tuple[int, bytes]]:
        path, _, content = job
        data = content()
        return path, ((out / path).write_bytes(data), hashlib.sha256(data).digest()[:16])

    written: dict[str, tuple[int, bytes]] = {}
    threads = ThreadPoolExecutor()
    try:
        for path, entry in threads.map(write, jobs):
            written[path] = entry
            progress(len(written), len(jobs))
    finally:  # without cancelling, an interrupt would wait for all images
        threads.shutdown(cancel_futures=True)
    return written
