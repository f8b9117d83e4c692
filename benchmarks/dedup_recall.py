"""Recall of the duplicate search under an attack suite, and false pairs among unrelated pictures.

    python benchmarks/dedup_recall.py [--images DIR] [--num 100]

Every photograph is indexed; each is then attacked in each way and searched. A pair with another
photograph than its source counts as false (look at them: a folder may hold a picture twice).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ppcls_core.data.decode import read_image
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.detect import scan
from ppcls_core.dedup.index import ValIndex, build_index, load_index

REPOSITORY = Path(__file__).resolve().parents[1]
Attack = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture as JPEG leaves it."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def resize(image: np.ndarray, factor: float) -> np.ndarray:
    """The picture at `factor` of its side."""
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def crop(image: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A random window of the picture's shape with `area` of its area."""
    height, width = (round(side * area**0.5) for side in image.shape[:2])
    top = int(rng.integers(0, image.shape[0] - height + 1))
    left = int(rng.integers(0, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """The picture turned about its centre, black where nothing is known."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, turn, (width, height))


def colour(image: np.ndarray) -> np.ndarray:
    """Hue turned by 60 degrees, more saturation, less contrast."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.int32)
    hsv[..., 0] = (hsv[..., 0] + 30) % 180  # OpenCV counts hue in steps of two degrees
    hsv[..., 1] = np.minimum(hsv[..., 1] * 3 // 2, 255)
    hsv[..., 2] = hsv[..., 2] * 7 // 10 + 20
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)


def text(image: np.ndarray) -> np.ndarray:
    """Three thick lines of lettering across the picture."""
    image, (height, width) = image.copy(), image.shape[:2]
    for line in (0.25, 0.5, 0.75):
        place = (width // 20, int(height * line))
        thickness = max(2, width // 60)
        cv2.putText(image, "SAMPLE TEXT", place, 0, width / 230, (255, 255, 255), thickness)
    return image


def border(image: np.ndarray) -> np.ndarray:
    """A plain frame of an eighth of the short side."""
    wide = min(image.shape[:2]) // 8
    return cv2.copyMakeBorder(
        image, wide, wide, wide, wide, cv2.BORDER_CONSTANT, value=(40, 160, 220)
    )


ATTACKS: dict[str, Attack] = {
    "none": lambda image, rng: image,
    "jpeg 30": lambda image, rng: jpeg(image, 30),
    "jpeg 10": lambda image, rng: jpeg(image, 10),
    "half size": lambda image, rng: resize(image, 0.5),
    "quarter size": lambda image, rng: resize(image, 0.25),
    "crop 80 %": lambda image, rng: crop(image, 0.8, rng),
    "crop 50 %": lambda image, rng: crop(image, 0.5, rng),
    "crop 30 %": lambda image, rng: crop(image, 0.3, rng),
    "crop 20 %": lambda image, rng: crop(image, 0.2, rng),
    "rotate 15": lambda image, rng: rotate(image, 15),
    "rotate 90": lambda image, rng: np.rot90(image),
    "mirror": lambda image, rng: image[:, ::-1],
    "blur 2": lambda image, rng: cv2.GaussianBlur(image, (0, 0), 2),
    "blur 4": lambda image, rng: cv2.GaussianBlur(image, (0, 0), 4),
    "colour": lambda image, rng: colour(image),
    "text": lambda image, rng: text(image),
    "border": lambda image, rng: border(image),
    "crop 50 % + 0.6 + jpeg 50": lambda image, rng: jpeg(resize(crop(image, 0.5, rng), 0.6), 50),
    "mirror + crop 50 %": lambda image, rng: crop(image, 0.5, rng)[:, ::-1],
    "squeeze to a square": lambda image, rng: cv2.resize(image, [min(image.shape[:2])] * 2),
}


def measure(name: str, files: list[Path], index: ValIndex, work: Path) -> list[str]:
    """One row of the table: the attack's recall, channels, false pairs and time."""
    paths = []
    for number, file in enumerate(files):
        rng = np.random.default_rng(zlib.crc32(f"{name} {number}".encode()))
        image = cv2.cvtColor(read_image(file), cv2.COLOR_RGB2BGR)
        attacked = np.ascontiguousarray(ATTACKS[name](image, rng))
        paths.append(work / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), attacked, [cv2.IMWRITE_JPEG_QUALITY, 92])
    start = time.perf_counter()
    ids = [file.name for file in files]
    pairs = scan(paths, ids, index, os.cpu_count() or 1, lambda: None).pairs.to_pylist()
    milliseconds = (time.perf_counter() - start) * 1000 / len(files)
    hits = [pair for pair in pairs if pair["pool_id"] == pair["val_id"]]
    channels = Counter(pair["channel"] for pair in hits)
    shares = " ".join(f"{channel} {count}" for channel, count in sorted(channels.items()))
    recall = f"{len(hits) / len(files):.3f}"
    return [name, recall, shares, str(len(pairs) - len(hits)), f"{milliseconds:.0f}"]


def main() -> None:
    """Command line."""
    shared = Path(os.environ.get("SSLD_SHARED", REPOSITORY.parent / "shared"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, default=shared / "data" / "photos")
    parser.add_argument("--num", type=int, default=100, help="photographs used")
    options = parser.parse_args()
    files = sorted(path for path in options.images.iterdir() if path.is_file())[: options.num]
    table = Table(
        "attack",
        "recall",
        "channels",
        "false pairs",
        "ms / image",
        title=f"{len(files)} photographs",
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build_index(files, [file.name for file in files], DedupConfig(), work, lambda done: None)
        index = load_index(work)
        rows = [measure(name, files, index, work) for name in track(ATTACKS, "attacks")]
    for row in rows:
        table.add_row(*row)
    macro = sum(float(row[1]) for row in rows) / len(rows)
    table.add_row("all", f"{macro:.3f}", "", str(sum(int(row[3]) for row in rows)), "")
    Console().print(table)


if __name__ == "__main__":
    main()
