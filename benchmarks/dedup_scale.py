"""What the duplicate search costs, by workers and by size of the pool and of the val set.

    python benchmarks/dedup_scale.py [--val DIR] [--pool DIR] [--num 150]

A real pool shows few val images. A first scan finds those that this one shows, and they are left
out: all costs are of a pool without duplicates. Times are CPU time, so that a busy machine changes
them little; wall time is given where other processes left the machine alone. A larger pool is the
same images again. Memory is `own` (resident but of no file, the most at any image; in a process of
its own) and what is mapped of the index. The last lines are the plan of 14.2 M images against
50,000. What the search finds, by setting: `benchmarks/dedup_settings.py`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from data_catalog.images.columns import loose_images
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import describe
from ppcls_core.dedup.match.detect import judge, scan
from ppcls_core.dedup.match.index import ValIndex, build_index, load_index
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.threads import map_threads

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = (1, 4, 16)  # x the number of pool images
SPARE = 2  # x that: val images which the pool may show
IDLE = 0.1  # cores that other processes may use
FULL_POOL, FULL_VAL, FULL_CORES = 14_200_000, 50_000, 64
console = Console(width=120)


@dataclass(frozen=True)
class Spent:
    """Milliseconds an image, and how many cores other processes had meanwhile."""

    cpu: float
    wall: float
    others: float


def spent(work: Callable[[], object], count: int) -> Spent:
    """The time of all threads for each of `count` items."""
    machine, cpu, wall = machine_seconds(), time.process_time(), time.monotonic()
    work()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    others = (machine_seconds() - machine - cpu) / wall
    return Spent(cpu * 1000 / count, wall * 1000 / count, others)


def machine_seconds() -> float:
    """CPU time of all processes since the machine began."""
    jiffies = Path("/proc/stat").read_text().split()[1:4]  # user, nice, system
    return sum(map(int, jiffies)) / os.sysconf("SC_CLK_TCK")


def own_mb() -> float:
    """Resident memory that is no file's."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


def index_of(files: list[Path], config: DedupConfig, folder: Path) -> float:
    """Build an index; CPU milliseconds an image."""
    images = loose_images(files[0].parent, [file.name for file in files])
    return spent(lambda: build_index(images, config, folder, 1, SilentMonitor()), len(files)).cpu


def bytes_in(folder: Path) -> int:
    """Size of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir())


def unrelated(pool: list[Path], val: list[Path], folder: Path) -> list[Path]:
    """The val images that no pool image shows, by the most lenient rule."""
    index_of(val, DedupConfig(rule="recall"), folder)
    index, ids = load_index(folder), [file.name for file in pool]
    pairs = scan(pool, ids, index, 1, lambda: None).pairs
    shown, showing = (set(pairs[name].to_pylist()) for name in ("val_id", "pool_id"))
    console.print(f"{len(showing)} of {len(pool)} pool images show {len(shown)} of {len(val)} val")
    return [file for file in val if file.name not in shown]


@dataclass(frozen=True)
class Cost:
    """By size of the val set: milliseconds an image to index it, of a pool image's decoding and
    coarse features, of all else, and of that if every image were searched in full; own MB."""

    num_val: int
    index: float
    first: float
    search: float
    whole: float
    own: float


def scan_apart(pool: list[Path], folder: Path) -> tuple[float, float, float]:
    """A scan in a process of its own: (CPU ms an image, own MB at the 64th image, the most)."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_scan, (pool, folder))


def _scan(pool: list[Path], folder: Path) -> tuple[float, float, float]:
    index, ids, own = load_index(folder), [str(number) for number in range(len(pool))], []
    once = spent(lambda: scan(pool, ids, index, 1, lambda: own.append(own_mb())), len(pool))
    return once.cpu, own[:64][-1], max(own)


def search_all(pool: list[Path], index: ValIndex) -> tuple[float, float, set[Path]]:
    """(CPU ms of decoding and coarse features, of all else; those that needed the full search)."""
    times, full = np.zeros(2), set()
    for file in pool:
        start = time.thread_time()
        picture = describe(file, index.config)
        _ = picture.coarse
        extracted = time.thread_time()
        judge(picture, index)[0]
        times += extracted - start, time.thread_time() - extracted
        full |= {file} if "features" in vars(picture) else set()
    first, search = (times * 1000 / len(pool)).tolist()
    return first, search, full


def val_growth(val: list[Path], pool: list[Path], folder: Path) -> list[Cost]:
    """The cost by size of the val set, all by the inverted file."""
    names = ("val images", "index ms", "decode + coarse ms", "search ms", "searched in full")
    table, costs = Table(*names, "search ms, if all were", "index MB", "own MB"), []
    for times in SIZES:
        part, inside = val[: len(val) * times // SIZES[-1]], folder / str(times)
        built = index_of(part, DedupConfig(max_exact=0), inside)
        first, search, full = search_all(pool, load_index(inside))
        _, whole, _ = search_all(pool, ValIndex(inside, DedupConfig(max_exact=0, coarse_vote=0.0)))
        own = scan_apart(pool, inside)[2]
        costs.append(Cost(len(part), built, first, search, whole, own))
        figures = (built, first, search, len(full) / len(pool), whole, bytes_in(inside) / 1e6, own)
        table.add_row(str(len(part)), *(f"{figure:.2f}" for figure in figures))
    console.print(table)
    return costs


def pool_growth(pool: list[Path], folder: Path) -> Table:
    """Cost and memory by size of the pool."""
    table = Table("pool images", "scan ms", "own MB at the 64th image", "own MB, the most")
    for times in SIZES:
        figures = scan_apart(list(islice(cycle(pool), times * len(pool))), folder)
        table.add_row(str(times * len(pool)), *(f"{figure:.1f}" for figure in figures))
    return table


def throughput(pool: list[Path], index: ValIndex) -> Table:
    """Scan against extraction alone, in turns, by workers: extraction of every image for the full
    search, and just the extraction that the scan does (coarse, and the full one of some)."""
    config, ids = index.config, [file.name for file in pool]
    full = search_all(pool, index)[2]
    title = "least of two turns; scan's throughput / that of extraction, by CPU time (wall time)"
    names = ("workers", "extraction ms", "its own extraction ms", "scan ms", "of extraction")
    table = Table(*names, "of its own", title=title)

    def everything(file: Path) -> object:
        return describe(file, config).features

    def its_own(file: Path) -> object:
        picture = describe(file, config)
        return picture.coarse, picture.features if file in full else None

    for workers in (1, 2):
        works = (
            lambda n=workers: list(map_threads(everything, pool, n)),
            lambda n=workers: list(map_threads(its_own, pool, n)),
            lambda n=workers: scan(pool, ids, index, n, lambda: None),
        )
        turns = [[spent(work, len(pool)) for work in works] for _ in range(2)]
        cpu = np.min([[one.cpu for one in turn] for turn in turns], axis=0)
        wall = np.min([[one.wall for one in turn] for turn in turns], axis=0)
        idle = max(one.others for turn in turns for one in turn) < IDLE
        ratios = (
            f"{by_cpu:.2f} ({f'{by_wall:.2f}' if idle else 'machine busy'})"
            for by_cpu, by_wall in zip((cpu / cpu[2])[:2], (wall / wall[2])[:2], strict=True)
        )
        table.add_row(str(workers), *(f"{figure:.1f}" for figure in cpu), *ratios)
    return table


def at_full(sizes: np.ndarray, figures: list[float]) -> tuple[float, float]:
    """(figure at FULL_VAL, x): the last figure grown as val^x, fitted to all, never falling."""
    exponent = max(0.0, np.polyfit(np.log(sizes), np.log(figures), 1)[0])
    return figures[-1] * (FULL_VAL / sizes[-1]) ** exponent, exponent


def plan(costs: list[Cost], index_ms: float, folder: Path) -> str:
    """What the full sizes cost, with val images like the pool's: `folder` has an index of those, in
    `index_ms` each."""
    index = load_index(folder)
    short, long = np.median(np.sort(index.sizes[:, :2]), axis=0)
    sizes = np.array([cost.num_val for cost in costs], float)
    first = costs[-1].first
    search, exponent = at_full(sizes, [cost.search for cost in costs])
    whole, steeper = at_full(sizes, [cost.whole for cost in costs])
    hours, most = (FULL_POOL * (first + each) / 3.6e6 for each in (search, whole))
    cells = np.polyfit(np.sqrt(sizes), [cost.index for cost in costs], 1)[0]
    built = index_ms + max(0, cells) * (np.sqrt(FULL_VAL) - np.sqrt(sizes[0]))
    slope = max(0.0, np.polyfit(sizes, [cost.own for cost in costs], 1)[0])
    own = (costs[-1].own + slope * (FULL_VAL - sizes[-1])) / 1000
    image_bytes = bytes_in(folder) / len(index)
    disk = image_bytes * FULL_VAL / 1e9
    return (
        f"planned, {FULL_POOL:,} images against {FULL_VAL:,}, all of {long:.0f} x {short:.0f}:\n"
        f"  scan: {first:.1f} ms decoding and coarse features + {search:.1f} ms search (val^"
        f"{exponent:.2f} through the sizes above) = {hours:,.0f} core-hours, "
        f"{hours / FULL_CORES:,.1f} hours on {FULL_CORES} cores;\n"
        f"    were every image searched in full: {whole:.1f} ms search (val^{steeper:.2f}) = "
        f"{most:,.0f} core-hours, {most / FULL_CORES:,.1f} hours\n"
        f"  index: {built:.1f} ms an image ({index_ms:.1f} measured; the rest for cells, as the "
        f"root of val) = {built * FULL_VAL / 3.6e6:.1f} core-hours\n"
        f"  disk: {image_bytes / 1000:.0f} kB a val image = {disk:.1f} GB\n"
        f"  memory: {own:.2f} GB own ({slope * 1000:.1f} kB a val image, by the sizes above) "
        f"+ up to {disk:.1f} GB of the index, mapped"
    )


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options that say where the images are."""
    shared = Path(os.environ.get("SSLD_SHARED", REPOSITORY.parent / "shared")) / "data"
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--val", type=Path, default=shared / "clothing" / "images")
    parser.add_argument("--pool", type=Path, default=shared / "photos")
    parser.add_argument("--num", type=int, default=150, help="pool images; 16 times as many val")
    return parser


def images_of(options: argparse.Namespace, folder: Path) -> tuple[list[Path], list[Path]]:
    """(pool, val) files, the latter in random order and without those that the pool shows."""
    cv2.setNumThreads(1)
    faiss.omp_set_num_threads(1)
    pool, val = (
        sorted(path for path in folder.iterdir() if path.is_file())
        for folder in (options.pool, options.val)
    )
    random.Random(0).shuffle(val)
    pool, most = pool[: options.num], SIZES[-1] * options.num
    return pool, unrelated(pool, val[: most + SPARE * options.num], folder)[:most]


def main() -> None:
    """Command line."""
    options = parser_of((__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool, val = images_of(options, folder / "first")
        costs = val_growth(val, pool, folder)
        console.print(pool_growth(pool, folder / "1"))
        console.print(throughput(pool, load_index(folder / str(SIZES[-1]))))
        index_ms = index_of(pool, DedupConfig(max_exact=0), folder / "pool")
        console.print(plan(costs, index_ms, folder / "pool"))


if __name__ == "__main__":
    main()
