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
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from ppcls_core.data.decode import read_image
from ppcls_core.dedup.attacks import ATTACKS
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.detect import find_pairs, scan
from ppcls_core.dedup.index import build_index, load_index
from ppcls_core.dedup.picture import describe
from ppcls_core.dedup.threads import map_threads

REPOSITORY = Path(__file__).resolve().parents[1]
HARD = ("crop 20 %", "blur 4", "text", "screenshot", "picture in picture 20 %", "jpeg 10")
SETTINGS = [
    {"side": side, "min_side": min(side, 160), "num_features": features, "contrast_threshold": low}
    for side in (128, 192, 256, 320)
    for features in (300, 500)
    for low in (0.006, 0.015)
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
    """Extraction alone: read, decode, reduce, SIFT."""
    for _ in map_threads(lambda file: describe(file, config), files, workers):
        pass


def settings_table(files: list[Path], folder: Path) -> Table:
    """Recall of the hard attacks against milliseconds, by setting. OpenCV always enlarges twice
    before extraction: half the `side` is what extraction without that sees."""
    table = Table("side", "features", "contrast", "recall", "extraction ms", "search ms")
    images = [read_image(file) for file in files]
    path = folder / "picture.jpg"
    for number, setting in enumerate(SETTINGS):
        config = DedupConfig(**setting)  # pyright: ignore[reportArgumentType]
        index_of(files, config, folder / str(number))
        index = load_index(folder / str(number))
        hits, spent = [], np.zeros(2)
        for name in HARD:
            for row, image in enumerate(images):
                rng = np.random.default_rng(zlib.crc32(f"{name} {row}".encode()))
                altered = ATTACKS[name](image, images[row - 7], rng)
                cv2.imwrite(str(path), altered[..., ::-1])
                times = [time.thread_time()]
                picture = describe(path, config)
                times.append(time.thread_time())
                hits.append(any(pair.row == row for pair in find_pairs(picture, index)))
                spent += np.diff([*times, time.thread_time()])
        extraction, search = spent * 1000 / len(hits)
        cells = [setting["side"], setting["num_features"], setting["contrast_threshold"]]
        figures = f"{np.mean(hits):.3f}", f"{extraction:.1f}", f"{search:.1f}"
        table.add_row(*map(str, cells), *figures)
    return table


def worker_table(pool: list[Path], index_folder: Path) -> Table:
    """Extraction alone against the whole search, in turns, by workers."""
    table = Table("workers", "extraction ms", "search ms", "throughput of extraction's (CPU)")
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


def shortlist(pool: list[Path], exact: Path, quick: Path) -> str:
    """How many pairs of attacked pictures the inverted file loses against comparing everything."""
    indexes = [load_index(folder) for folder in (exact, quick)]
    found, path = [0, 0], exact / "picture.jpg"
    for row, file in enumerate(pool):
        for name in HARD:
            rng = np.random.default_rng(zlib.crc32(f"{name} {row}".encode()))
            image = read_image(file)
            altered = ATTACKS[name](image, np.roll(image, 50, axis=1), rng)
            cv2.imwrite(str(path), altered[..., ::-1])
            picture = describe(path, indexes[0].config)
            for number, index in enumerate(indexes):
                pairs = find_pairs(picture, index)
                found[number] += any(index.ids[pair.row] == file.name for pair in pairs)
    asked = len(pool) * len(HARD)
    return f"of {asked} attacked pictures: brute force {found[0]}, inverted file {found[1]}"


def growth(
    val: list[Path], pool: list[Path], folder: Path
) -> tuple[Table, list[tuple[int, float, float, int]]]:
    """By size of the val set: (images, index ms, search ms beside extraction, bytes)."""
    table = Table("val images", "index ms", "extraction ms", "search ms", "index MB", "peak RSS MB")
    rows, ids = [], [file.name for file in pool]
    for times in (1, 4, 16):
        part = val[: len(val) * times // 16]
        built = index_of(part, DedupConfig(max_exact=0), folder / str(times))
        index = load_index(folder / str(times))
        alone = cpu_ms(lambda: describe_all(pool, DedupConfig(), 1), len(pool))
        whole = cpu_ms(lambda i=index: scan(pool, ids, i, 1, lambda: None), len(pool))
        size = bytes_in(folder / str(times))
        rows.append((len(part), built, whole - alone, size))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = (built, alone, whole - alone, size / 1e6, peak)
        table.add_row(str(len(part)), *(f"{figure:.1f}" for figure in figures))
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
            console.print(settings_table(pool[:24], folder / "settings"))
        table, rows = growth(val, pool, folder)
        console.print(table)
        console.print(worker_table(pool, folder / "16"))
        few = pool[:24] + val[: options.num]
        for kind, limit in (("exact", 1 << 40), ("quick", 0)):
            index_of(few, DedupConfig(max_exact=limit), folder / kind)
        console.print(shortlist(pool[:24], folder / "exact", folder / "quick"))
        alone = min(cpu_ms(lambda: describe_all(pool, DedupConfig(), 1), len(pool)) for _ in (1, 2))
    (small, _, low, _), (large, built, high, size) = rows[0], rows[-1]
    exponent = max(0.0, np.log(max(high, 0.01) / max(low, 0.01)) / np.log(large / small))
    search = high * (FULL_VAL / large) ** exponent
    hours = FULL_POOL * (alone + search) / 3.6e6
    gigabytes = size / large * FULL_VAL / 1e9
    console.print(
        f"search grows as val^{exponent:.2f}; planned: {FULL_POOL:,} against {FULL_VAL:,}: "
        f"{alone:.1f} + {search:.1f} ms an image = {hours:,.0f} core-hours, index "
        f"{built * FULL_VAL / 3.6e6:.1f} core-hours and {gigabytes:.1f} GB of disk, memory-mapped"
    )


if __name__ == "__main__":
    main()
