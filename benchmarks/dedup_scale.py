"""What the duplicate search costs: by setting, workers, size of the pool and of the val set.

    python benchmarks/dedup_scale.py [--val DIR] [--pool DIR] [--num 150] [--settings]

Times are CPU time, so that a busy machine does not change them; shares are of figures measured in
turns in one run. The last lines are the plan of 14.2 M images against 50,000.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from data_catalog.config import parse
from ppcls_core.data.decode import read_image
from ppcls_core.dedup.attacks import ATTACKS, COMMON
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.detect import check_pair, find_pairs, scan
from ppcls_core.dedup.index import ValIndex, build_index, load_index
from ppcls_core.dedup.picture import describe
from ppcls_core.dedup.threads import map_threads

REPOSITORY = Path(__file__).resolve().parents[1]
HARD = ("crop 20 %", "blur 4", "text", "screenshot", "picture in picture 20 %", "jpeg 10")
SETTINGS = [  # of the full search, without a first look
    {"side": side, "num_features": features, "contrast_threshold": low}
    for side in (128, 192, 256, 320)
    for features in (300, 500)
    for low in (0.006, 0.015)
]
LOOKS = [  # of the first look; the first makes none
    {"look_vote": 0.0},
    *(
        {"look_side": side, "look_features": features, "look_vote": vote}
        for side, features in ((96, 200), (128, 200), (128, 300), (160, 300))
        for vote in (1.0, 1.2, 1.4)
    ),
]
FULL_POOL, FULL_VAL = 14_200_000, 50_000
console = Console(width=120)


def cpu_ms(work: Callable[[], object], count: int) -> float:
    """CPU milliseconds of all threads for each of `count` items."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000 / count


def index_of(files: list[Path], config: DedupConfig, folder: Path) -> float:
    """Build an index; CPU milliseconds an image."""
    ids = [file.name for file in files]
    return cpu_ms(lambda: build_index(files, ids, config, folder, lambda done: None), len(files))


def bytes_in(folder: Path) -> int:
    """Size of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir())


def describe_all(files: list[Path], config: DedupConfig, workers: int) -> None:
    """Extraction alone, of the full search's features: read, decode, reduce, SIFT."""
    for _ in map_threads(lambda file: describe(file, config).features, files, workers):
        pass


def attacked(files: list[Path], names: Iterable[str]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, picture) of each attack of each of the files."""
    images = [read_image(file) for file in files]
    for name in names:
        for row, image in enumerate(images):
            rng = np.random.default_rng(zlib.crc32(f"{name} {row}".encode()))
            yield row, np.ascontiguousarray(ATTACKS[name](image, images[row - 7], rng))


def recall(
    files: list[Path], index: ValIndex, folder: Path, names: Iterable[str]
) -> tuple[float, float, float]:
    """(recall, extraction ms, ms of all else) of attacked pictures; extraction is the full one."""
    hits, spent = [], np.zeros(2)
    for row, image in attacked(files, names):
        cv2.imwrite(str(folder / "picture.jpg"), image[..., ::-1])
        picture = describe(folder / "picture.jpg", index.config)
        times = [time.thread_time()]
        assert picture.features is not None
        times.append(time.thread_time())
        hits.append(any(pair.row == row for pair in find_pairs(picture, index)))
        spent += np.diff([*times, time.thread_time()])
    extraction, search = (spent * 1000 / len(hits)).tolist()
    return float(np.mean(hits)), extraction, search


def settings_table(files: list[Path], folder: Path) -> Table:
    """Recall of the hard attacks against milliseconds, by setting. OpenCV always enlarges twice
    before extraction: half the `side` is what extraction without that sees."""
    table = Table("side", "features", "contrast", "recall", "extraction ms", "search ms")
    for setting in SETTINGS:
        least = min(setting["side"], DedupConfig().min_side)
        values = {**setting, "min_side": least, "look_side": least, "look_vote": 0.0}
        index_of(files, parse(DedupConfig, values, "setting"), folder)
        found, extraction, search = recall(files, load_index(folder), folder, HARD)
        figures = (f"{found:.3f}", f"{extraction:.1f}", f"{search:.1f}")
        table.add_row(*map(str, setting.values()), *figures)
    return table


def looks_table(files: list[Path], others: list[Path], folder: Path) -> Table:
    """Recall of the hard attacks, and CPU time of `others` (of which the index has none), by what
    the first look is."""
    table = Table("first look", "recall", "of others: full search", "ms, decoding included")
    for look in LOOKS:
        index_of(files, parse(DedupConfig, look, "look"), folder)
        index = load_index(folder)
        found, _, _ = recall(files, index, folder, HARD)
        pictures = [describe(file, index.config) for file in others]
        spent = cpu_ms(lambda p=pictures, i=index: [find_pairs(x, i) for x in p], len(others))
        decoding = cpu_ms(lambda c=index.config: [describe(f, c) for f in others], len(others))
        full = np.mean(["features" in vars(picture) for picture in pictures])
        name = ", ".join(f"{value:g}" for value in look.values())
        table.add_row(name, f"{found:.3f}", f"{full:.2f}", f"{decoding + spent:.1f}")
    return table


def worker_table(pool: list[Path], index_folder: Path) -> Table:
    """Extraction alone (of all images, for the full search) against the whole scan, in turns, by
    workers."""
    table = Table("workers", "extraction ms", "scan ms", "throughput of extraction's (CPU)")
    index = load_index(index_folder)
    ids = [file.name for file in pool]
    for workers in (1, 2):
        alone, whole = [], []
        for _ in range(2):
            alone.append(cpu_ms(lambda w=workers: describe_all(pool, index.config, w), len(pool)))
            run = lambda w=workers: scan(pool, ids, index, w, lambda: None)  # noqa: E731
            whole.append(cpu_ms(run, len(pool)))
        ratio = min(alone) / min(whole)
        table.add_row(str(workers), f"{min(alone):.1f}", f"{min(whole):.1f}", f"{ratio:.2f}")
    return table


def shortlist(pool: list[Path], folder: Path) -> str:
    """How many attacked pictures of the pool, whose sources the index has, are lost by the first
    look and the inverted file: found when compared with their source, not by the search."""
    index, seen, lost = load_index(folder), 0, 0
    for row, image in attacked(pool, COMMON):
        cv2.imwrite(str(folder / "picture.jpg"), image[..., ::-1])
        picture = describe(folder / "picture.jpg", index.config)
        if any(pair.row == row for pair in find_pairs(picture, index)):
            seen += 1
        elif check_pair(picture, index, row) is not None:
            seen, lost = seen + 1, lost + 1
    asked = len(pool) * len(COMMON)
    return f"of {asked} attacked pictures {seen} show their source when compared; lost: {lost}"


@dataclass(frozen=True)
class Cost:
    """By size of the val set: milliseconds an image to index it, of the whole scan of a pool image,
    of that behind the first look's extraction; bytes of the index."""

    num_val: int
    index: float
    scan: float
    search: float
    size: int


def growth(val: list[Path], pool: list[Path], folder: Path) -> tuple[Table, list[Cost]]:
    """The cost by size of the val set, all by the inverted file."""
    names = ("val images", "index ms", "scan ms", "search ms", "full search", "index MB", "RSS MB")
    table, rows, ids = Table(*names), [], [file.name for file in pool]
    for times in (1, 4, 16):
        part, inside = val[: len(val) * times // 16], folder / str(times)
        built = index_of(part, DedupConfig(max_exact=0), inside)
        index = load_index(inside)
        whole = cpu_ms(lambda i=index: scan(pool, ids, i, 1, lambda: None), len(pool))
        pictures = [describe(file, index.config) for file in pool]
        assert all(picture.look is not None for picture in pictures)
        search = cpu_ms(lambda p=pictures, i=index: [find_pairs(x, i) for x in p], len(pool))
        full = np.mean(["features" in vars(picture) for picture in pictures])
        rows.append(Cost(len(part), built, whole, search, bytes_in(inside)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = (built, whole, search, full, rows[-1].size / 1e6, peak)
        table.add_row(str(len(part)), *(f"{figure:.2f}" for figure in figures))
    return table, rows


def main() -> None:
    """Command line."""
    shared = Path(os.environ.get("SSLD_SHARED", REPOSITORY.parent / "shared")) / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--val", type=Path, default=shared / "clothing" / "images")
    parser.add_argument("--pool", type=Path, default=shared / "photos")
    parser.add_argument("--num", type=int, default=150, help="pool images; 16 times as many val")
    parser.add_argument("--settings", action="store_true", help="the table of settings as well")
    options = parser.parse_args()
    pool, val = (
        sorted(path for path in folder.iterdir() if path.is_file())
        for folder in (options.pool, options.val)
    )
    pool, val = pool[: options.num], val[: 16 * options.num]
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.settings:
            console.print(settings_table(pool[:16], folder / "settings"))
            console.print(looks_table(pool[:16], val[: options.num], folder / "looks"))
        table, rows = growth(val, pool, folder)
        console.print(table)
        console.print(worker_table(pool, folder / "16"))
        few = pool[:24] + val[: 4 * options.num]
        index_of(few, DedupConfig(max_exact=0), folder / "few")
        console.print(shortlist(pool[:24], folder / "few"))
    small, large = rows[0], rows[-1]
    exponent = max(0.0, np.log(large.search / small.search) / np.log(large.num_val / small.num_val))
    search = large.search * (FULL_VAL / large.num_val) ** exponent
    each = large.scan - large.search + search
    console.print(
        f"search grows as val^{exponent:.2f}; planned: {FULL_POOL:,} against {FULL_VAL:,}: "
        f"{each:.1f} ms an image = {FULL_POOL * each / 3.6e6:,.0f} core-hours, index "
        f"{large.index * FULL_VAL / 3.6e6:.1f} core-hours and "
        f"{large.size / large.num_val * FULL_VAL / 1e9:.1f} GB of disk, memory-mapped"
    )


if __name__ == "__main__":
    main()
