"""Recall of the duplicate search under an attack suite, and false pairs among unrelated pictures.

    python benchmarks/dedup_recall.py [--images DIR] [--num 100] [--part 1/2] [--rule balanced]

Every photograph is indexed; each is then attacked in each way and searched, and so are pictures
with little texture, signs, walls, forms, and photographs in one frame or under one watermark. A
pair with another photograph than its source, or than the one that an attack pastes, counts as false
(look at them: a folder may hold a picture twice). The last table is the curve: recall and false
pairs had `rule` asked for more or less agreement.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_catalog.images.columns import Images, loose_images
from ppcls_core.data.decode import read_image
from ppcls_core.dedup.attacks import (
    ATTACKS,
    COMMON,
    border,
    perspective,
    rotate,
    watermark,
)
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import describe
from ppcls_core.dedup.match.detect import judge
from ppcls_core.dedup.match.index import ValIndex, build_index, load_index
from ppcls_core.dedup.match.pairs import Pair
from ppcls_core.dedup.match.verify import AGREEMENT
from ppcls_core.runtime.monitor import SilentMonitor

REPOSITORY = Path(__file__).resolve().parents[1]
PASTED = 7  # the other picture of an attack is so many places further on
WORDS = ("EXIT", "ENTRY", "STOP", "SLOW", "OPEN", "CLOSED", "PULL", "STAFF", "ONLY", "ROAD", "SALE")
MARGINS = np.arange(0, 0.31, 0.05)


@dataclass(frozen=True)
class Attempt:
    """Pairs of one attacked picture: with its source, and with those that it does not show."""

    attack: str
    hits: list[Pair]
    false: list[Pair]
    seconds: float  # of this thread


def attacked(
    images: list[np.ndarray], names: Iterable[str] = ATTACKS
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(attack, number, picture) of each of the attacks of every picture."""
    for name in names:
        for number, image in enumerate(images):
            rng = np.random.default_rng(zlib.crc32(f"{name} {number}".encode()))
            other = images[(number + PASTED) % len(images)]
            yield name, number, np.ascontiguousarray(ATTACKS[name](image, other, rng))


def plain_pictures(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """RGB pictures with little to tell them apart: skies, drawings, digits, near-black ones."""
    ramp = np.linspace(0, 1, 300)[:, None, None] * np.ones((1, 400, 3))
    for _ in range(20):
        low, high = rng.uniform(60, 200, 3), rng.uniform(120, 255, 3)
        cloud = cv2.resize(rng.normal(0, 12, (5, 7)), (400, 300), interpolation=cv2.INTER_CUBIC)
        yield low + (high - low) * ramp + cloud[..., None] * rng.integers(0, 2)
        yield np.abs(rng.normal(0, 3, (300, 400, 3)))
        drawing = np.full((300, 400, 3), 255, np.uint8)
        for _ in range(int(rng.integers(2, 7))):
            ends = rng.integers(0, (400, 300), (2, 2)).tolist()
            cv2.line(drawing, ends[0], ends[1], (0, 0, 0), 3)
            cv2.circle(drawing, ends[0], int(rng.integers(10, 90)), (0, 0, 0), 3)
        yield drawing
        digit = np.zeros((280, 280, 3), np.uint8)
        cv2.putText(digit, str(rng.integers(0, 10)), (60, 230), 0, 8, (255, 255, 255), 20)
        yield perspective(rotate(digit, rng.uniform(-15, 15)), 0.25, rng)


def lettered(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Signs in one frame, of few words that come again and again."""
    for _ in range(40):
        paint = tuple(int(x) for x in rng.choice([(200, 0, 0), (0, 60, 150), (20, 20, 20)]))
        picture = np.full((240, 360, 3), paint, np.uint8)
        cv2.rectangle(picture, (8, 8), (352, 232), (255, 255, 255), 5)
        for line in range(3):
            line_of_words = " ".join(rng.choice(WORDS, 2))
            cv2.putText(picture, line_of_words, (25, 75 + 60 * line), 2, 1.4, (255, 255, 255), 2)
        yield picture


def walls(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Brick walls: of one make, at random turns."""
    for _ in range(40):
        wall = 150 + 20 * cv2.GaussianBlur(rng.normal(0, 1, (360, 480)), (0, 0), 2)
        high, wide = (int(x) for x in rng.integers((24, 50), (60, 120)))
        for row in range(0, 360, high):
            cv2.line(wall, (0, row), (480, row), (220,), 3)
            for x in range(-(row // high % 2) * wide // 2, 480, wide):
                cv2.line(wall, (x, row), (x, row + high), (220,), 3)
        turn = cv2.getRotationMatrix2D((240, 180), rng.uniform(-25, 25), 1.3)
        grey = cv2.warpAffine(wall, turn, (400, 300)) + rng.normal(0, 3, (300, 400))
        yield np.repeat(grey[..., None], 3, axis=2)


def forms(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Forms of eight prints, each filled in by five hands."""
    for _ in range(8):
        blank = np.full((720, 520, 3), 240, np.uint8)
        lines = range(40, 700, int(rng.integers(40, 60)))
        for y in lines:
            words = " ".join(rng.choice(WORDS, 2)).lower()
            cv2.putText(blank, words, (14, y), int(rng.integers(0, 4)), 0.6, (50, 50, 50), 1)
            cv2.line(blank, (230, y + 4), (505, y + 4), (110, 110, 110), 2)
        for _ in range(5):
            page, slant = blank.copy(), rng.uniform(-4, 8)
            for y in lines:
                x = np.arange(240, rng.integers(300, 500), 5)
                high = rng.uniform(0, 22, len(x)) * (np.arange(len(x)) % 2)
                stroke = np.column_stack([x + slant * high / 22, y - high])
                cv2.polylines(page, [stroke.astype(np.int32)], False, (90, 40, 40), 2, cv2.LINE_AA)
            yield page


def framed(images: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures in one frame, with one signature."""
    for image in images:
        picture = border(cv2.resize(image, (400, 300)), np.random.default_rng(0))
        cv2.putText(picture, "(c) PHOTOS", (60, 300), 0, 1.5, (255, 255, 255), 3, cv2.LINE_AA)
        yield picture


def search(name: str, picture: np.ndarray, index: ValIndex, path: Path, own: set[str]) -> Attempt:
    """Search one picture; pairs with `own` are hits, those with "" or others are false."""
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    start = time.thread_time()
    pairs = judge(describe(path, index.config), index)[0]
    seconds = time.thread_time() - start
    hits = [pair for pair in pairs if index.ids[pair.row] in own]
    return Attempt(name, hits, [pair for pair in pairs if pair not in hits], seconds)


def images_in(files: list[Path]) -> Images:
    """Files of one folder, whose names are their ids."""
    return loose_images(files[0].parent, [file.name for file in files])


def run(files: list[Path], config: DedupConfig, folder: Path) -> tuple[list[Attempt], int]:
    """(what was found, number of unrelated pairs that were compared)."""
    build_index(images_in(files), config, folder, 1, SilentMonitor())
    index, picture = load_index(folder), folder / "picture.jpg"
    images = [read_image(file) for file in files]
    result = []
    for name, number, image in track(attacked(images), "attacks", len(ATTACKS) * len(images)):
        found = search(name, image, index, picture, {files[number].name})
        pasted = files[(number + PASTED) % len(files)].name
        false = [pair for pair in found.false if index.ids[pair.row] != pasted]
        result.append(Attempt(name, found.hits, false, found.seconds))
    num_pairs = len(result) * max(0, len(files) - 2)
    sets = {
        "(little texture)": list(plain_pictures(np.random.default_rng(1))),
        "(signs)": list(lettered(np.random.default_rng(2))),
        "(brick walls)": list(walls(np.random.default_rng(3))),
        "(forms)": list(forms(np.random.default_rng(4))),
        "(one frame and signature)": list(framed(images)),
        "(one watermark all over)": [watermark(cv2.resize(image, (400, 300))) for image in images],
    }
    for name, pictures in sets.items():
        paths = [folder / f"{number}.png" for number in range(len(pictures))]
        for path, image in zip(paths, pictures, strict=True):
            cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8)[..., ::-1])
        own = folder / name
        build_index(images_in(paths), config, own, 1, SilentMonitor())
        others = load_index(own)
        for number, image in enumerate(track(pictures, name)):
            image = image.clip(0, 255).astype(np.uint8)
            found = search(name, image, others, picture, {paths[number].name})
            result.append(Attempt(name, [], found.false, found.seconds))
        num_pairs += len(pictures) * (len(pictures) - 1)
    return result, num_pairs


def passes(pair: Pair, margin: float) -> bool:
    """Whether the pair counts when `margin` more agreement is asked for; of sift alone it is."""
    return pair.channel != "sift" or pair.margin >= margin


def recall_table(found: list[Attempt], title: str) -> Table:
    """A row an attack."""
    table = Table("attack", "recall", "channels", "false pairs", "CPU ms / image", title=title)
    for name in dict.fromkeys(one.attack for one in found):
        rows = [one for one in found if one.attack == name]
        channels = Counter(one.hits[0].channel for one in rows if one.hits)
        table.add_row(
            name,
            f"{np.mean([bool(one.hits) for one in rows]):.3f}" if name in ATTACKS else "",
            " ".join(f"{channel} {count}" for channel, count in sorted(channels.items())),
            str(sum(len(one.false) for one in rows)),
            f"{np.mean([one.seconds for one in rows]) * 1000:.0f}",
        )
    return table


def curve(found: list[Attempt]) -> Table:
    """Macro recall and false pairs, had the rule asked for `margin` more agreement."""
    table = Table("margin", "recall, issue's attacks", "recall, all attacks", "false pairs")
    for margin in MARGINS:
        recalls = {
            name: np.mean(
                [any(passes(p, margin) for p in one.hits) for one in found if one.attack == name]
            )
            for name in ATTACKS
        }
        false = sum(passes(pair, margin) for one in found for pair in one.false)
        table.add_row(
            f"{margin:+.2f}",
            f"{np.mean([recalls[name] for name in COMMON]):.4f}",
            f"{np.mean(list(recalls.values())):.4f}",
            str(false),
        )
    return table


def main() -> None:
    """Command line."""
    shared = Path(os.environ.get("SSLD_SHARED", REPOSITORY.parent / "shared"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, default=shared / "data" / "photos")
    parser.add_argument("--num", type=int, default=100, help="photographs used")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th photograph from the K-th on")
    parser.add_argument("--rule", choices=list(AGREEMENT), default="balanced")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    files = sorted(path for path in options.images.iterdir() if path.is_file())
    files = files[part - 1 :: parts][: options.num]
    cv2.setNumThreads(1)
    lenient = DedupConfig(rule="recall")
    with tempfile.TemporaryDirectory() as folder:
        found, num_pairs = run(files, lenient, Path(folder))
    least = AGREEMENT[options.rule] - AGREEMENT["recall"] - 1e-9
    kept = [
        Attempt(
            one.attack,
            [pair for pair in one.hits if passes(pair, least)],
            [pair for pair in one.false if passes(pair, least)],
            one.seconds,
        )
        for one in found
    ]
    console = Console()
    console.print(recall_table(kept, f"{len(files)} photographs, rule {options.rule}"))
    console.print(f"{num_pairs:,} unrelated pairs; margins below count from the rule `recall`")
    console.print(curve(found))


if __name__ == "__main__":
    main()
