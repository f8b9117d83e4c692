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

Pixels are BGR uint8 [H, W, 3], OpenCV's order; random numbers come from the caller's generator.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from data_catalog.base.config import Config, UserError
from data_catalog.base.files import digest_of, sha256_file
from data_catalog.base.threads import map_threads
from data_catalog.images.columns import ROOT, Images, image_table
from data_catalog.images.identity import Progress
from data_catalog.sources import PLANTED_SCHEMA, Splits

QUALITY = 92  # of the JPEG files
BAD = ("truncated", "text", "empty", "tiny", "bomb")
BOMB = bytes.fromhex(  # a PNG whose header promises 50,000 x 50,000 pixels
    "89504e470d0a1a0a0000000d494844520000c3500000c3500802000000c4cdaa9d"
    "0000000849444154789c030000000001480689d20000000049454e44ae426082"
)
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


def blocks(photo: np.ndarray, *regions: int) -> list[np.ndarray]:
    """The blocks of `photo` ([H, W, 3]) that belong to `regions`, as views, row by row."""
    rows, columns = (np.linspace(0, side, 4).astype(int) for side in photo.shape[:2])
    return [
        photo[rows[r] : rows[r + 1], columns[c] : columns[c + 1]]
        for r in range(3)
        for c in range(3)
        if (r + c) % 3 in regions
    ]


def cut(block: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `block` (uint8 [H, W, 3]), turned by up to 30 degrees, 40 to 100 % as wide as
    fits, in which every pixel read lies: uint8 [size, size, 3]."""
    angle = np.deg2rad(rng.uniform(-30, 30))
    cos, sin = np.cos(angle), np.sin(angle)
    height, width = block.shape[:2]
    side = rng.uniform(0.4, 1.0) * (min(height, width) - 2) / (cos + abs(sin))
    half = side * (cos + abs(sin)) / 2
    x, y = rng.uniform(half, width - 1 - half), rng.uniform(half, height - 1 - half)
    fine = size * max(1, round(side / size))  # shrinking averages whole pixels, or it would alias
    turn = np.array([[cos, -sin], [sin, cos]]) * side / fine
    centre = np.array([[x], [y]]) - turn @ np.full((2, 1), (fine - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    piece = cv2.warpAffine(block, np.hstack([turn, centre]), (fine, fine), flags=flags)
    return cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA)


def detail(image: np.ndarray) -> float:
    """How much there is to see: the mean absolute Laplacian after a blur against the grain."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 1.5)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def relight(piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`piece` with blur, lost colour, contrast, brightness, a colour cast and noise, at random."""
    if rng.random() < 0.5:
        piece = _blurred(piece, rng.uniform(0.3, 1.2))
    if rng.random() < 0.25:
        piece = cv2.cvtColor(cv2.cvtColor(piece, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    mean = piece.mean()
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
    light = (piece - mean) * gain + mean * rng.uniform(0.85, 1.15, 3) + rng.uniform(-35, 35)
    light += rng.normal(0, rng.uniform(0, 7), piece.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma * len(image) / 128)


def encode(image: np.ndarray, quality: int = QUALITY) -> bytes:
    """JPEG bytes of an image."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(image)
    side = round(size * rng.uniform(0.75, 0.9))
    y, x = rng.integers(0, size - side + 1, 2)
    return image[y : y + side, x : x + side]


def _turn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotated by 5 to 15 degrees and cut to the square that has no empty corner."""
    size = len(image)
    angle = rng.uniform(5, 15) * rng.choice([-1, 1])
    side = size / (np.cos(np.deg2rad(angle)) + abs(np.sin(np.deg2rad(angle))))
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, 1)
    edge = int(np.ceil((size - side) / 2))
    return cv2.warpAffine(image, matrix, (size, size))[edge : size - edge, edge : size - edge]


def _text(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size, image = len(image), image.copy()
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    for line in rng.uniform(0.2, 0.9, 2):
        place = (int(0.05 * size), int(line * size))
        cv2.putText(image, "SAMPLE", place, cv2.FONT_HERSHEY_SIMPLEX, size / 170, colour, 2)
    return image


def _colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gains = rng.uniform(0.7, 1.3, 3)
    light = 255 * (image / 255) ** rng.uniform(0.7, 1.4) * gains
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


TRANSFORMS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg30": lambda image, rng: image,
    "crop": _crop,
    "half": lambda image, rng: cv2.resize(image, None, None, 0.5, 0.5, cv2.INTER_AREA),
    "mirror": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "rotation": _turn,
    "text": _text,
    "colour": _colour,
    "blur": lambda image, rng: _blurred(image, rng.uniform(1.0, 1.8)),
}


def bad_file(kind: str, image: np.ndarray) -> bytes:
    """Content of a `.jpg` file that is no usable image; `kind` is one of BAD."""
    if kind == "truncated":
        data = encode(image)
        return data[: len(data) * 2 // 5]
    if kind == "tiny":
        return encode(image[:8, :8])
    contents = {"text": b"This is a text and no photograph.\n" * 8, "bomb": BOMB, "empty": b""}
    return contents[kind]


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
    is_made: ClassVar[bool] = True  # by `build`: the settings alone decide the images

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
        done, total = count(1), sum(map(len, jobs.values()))
        found = {
            split: _written(out, part, lambda: progress(next(done), total))
            for split, part in jobs.items()
        }
        truth = [{"pool_id": job[0], **truth} for job, truth in planted]
        table = pa.Table.from_pylist(truth, schema=PLANTED_SCHEMA)
        return Splits(found["train"], found["val"], found["pool"], table, found.get("teacher"))

    def _pieces(self, kind: str, regions: tuple[int, ...], per_class: int) -> list[Job]:
        return [
            (
                f"{kind}/{name}_{index:05d}.jpg",
                None if kind == "pool" else label,
                partial(self._encoded, kind, regions, label, index),
            )
            for label, name in enumerate(CLASSES)
            for index in range(per_class)
        ]

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


def _written(out: Path, jobs: list[Job], advance: Callable[[], None]) -> Images:
    """The images of these jobs, written under `out`; `advance` is called once each."""
    paths, labels, _ = zip(*jobs, strict=True)
    for folder in {(out / path).parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)

    def write(job: Job) -> tuple[int, bytes]:
        path, _, content = job
        data = content()
        return (out / path).write_bytes(data), hashlib.sha256(data).digest()[:16]

    written = []
    for entry in map_threads(write, jobs, os.cpu_count() or 1):
        written.append(entry)
        advance()
    sizes, contents = zip(*written, strict=True)
    table = image_table(paths, sizes, label=labels, content=contents)
    return Images(table, {ROOT: str(out.absolute())}, tuple(CLASSES))
