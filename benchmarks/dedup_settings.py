"""What the duplicate search finds against what it costs, by setting; what its shortlists lose.

    python benchmarks/dedup_settings.py [--val DIR] [--pool DIR] [--num 150] [--shortlist]

Photographs of the pool and as many val images (of less than half their size) are attacked and
searched. Rows of a table are of the same pictures, so that a difference between rows is firmer than
either figure; a star marks the defaults. Upsampling is a matter of `side`: OpenCV doubles every
picture, so half the side is the same size without. Times are CPU time. `--shortlist` tells only
what the search loses against brute force.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from math import comb
from pathlib import Path

import cv2
import numpy as np
from dedup_recall import attacked
from dedup_scale import console, images_of, index_of, parser_of, search_all
from rich.table import Table

from data_catalog.base.config import parse
from ppcls_core.data.decode import read_image
from ppcls_core.dedup.attacks import COMMON
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import DescribedImage, describe
from ppcls_core.dedup.match.detect import check_pair, judge
from ppcls_core.dedup.match.index import ValIndex, load_index

SOURCES, HARD_SOURCES = 42, 48  # of either kind: for 1,596 pictures, and 576
OTHERS = 600  # val images beside the sources
HARD = (
    "crop 20 %",
    "blur 4",
    "text",
    "screenshot",
    "picture in picture 20 %",
    "crop 50 % + 0.6 + jpeg 50",
)
WIDER = (  # what shortens the list, taken away one after the other
    ("coarse search", {"coarse_vote": 0.0}),
    ("inverted file", {"max_exact": 1 << 30}),
    ("number of candidates", {"num_candidates": 100, "min_vote": 0.0, "num_queries": 10_000}),
)
SETTINGS = [
    {"side": side, "num_features": features, "contrast_threshold": low}
    for side in (128, 192, 256, 320)
    for features in (300, 500)
    for low in (0.006, 0.015)
]
COARSE = [
    {"coarse_side": side, "coarse_features": features, "coarse_vote": vote}
    for side, features, vote in (
        *((112, 200, vote) for vote in (0.0, 1.2, 1.4, 1.5, 1.7, 2.0)),
        *((side, 200, 1.5) for side in (96, 128, 160)),
        *((112, features, 1.5) for features in (150, 300, 500)),
    )
]


def plant(files: list[Path], names: Iterable[str], path: Path) -> Iterator[int]:
    """Write each attack of each of the files to `path`, in turn; the file's number."""
    for _, row, altered in attacked([read_image(file) for file in files], names):
        cv2.imwrite(str(path), altered[..., ::-1])
        yield row


def finds(picture: DescribedImage, index: ValIndex, row: int) -> bool:
    """Whether the search pairs them."""
    return any(pair.row == row for pair in judge(picture, index)[0])


def upper_bound(count: int, of: int) -> float:
    """Exact binomial 95 % upper bound (one-sided) of a share; 3 / `of` when none is seen."""
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        terms = (comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count + 1))
        low, high = (share, high) if sum(terms) > 0.05 else (low, share)
    return high


def shortlist(sources: list[Path], others: list[Path], folder: Path) -> str:
    """Attacked pictures that are found when compared with their source alone, as brute force does,
    and not by the search by way of coarse search, inverted file and votes; by what loses them."""
    places = {0: folder / "inverted", 1 << 30: folder / "exact"}
    for max_exact, place in places.items():
        index_of(sources + others, DedupConfig(max_exact=max_exact), place)
    settings: dict[str, object] = {"max_exact": 0}
    index, wider = load_index(places[0]), {}
    for name, change in WIDER:
        settings |= change
        config = parse(DedupConfig, settings, name)
        wider[name] = ValIndex(places[config.max_exact], config)
    found, lost, path = 0, Counter[str](), folder / "picture.jpg"
    for row in plant(sources, COMMON, path):
        picture = describe(path, index.config)
        if finds(picture, index, row):
            found += 1
        elif check_pair(picture, index, row) is not None:
            by = (name for name, larger in wider.items() if finds(picture, larger, row))
            lost[next(by, "voting or competing images")] += 1
    asked, brute = len(sources) * len(COMMON), found + lost.total()
    reasons = ", ".join(f"{name} {count}" for name, count in lost.items()) or "nothing"
    return (
        f"of {asked:,} attacked pictures of {len(sources)} images among {len(others)} others brute "
        f"force finds {brute:,}, the search {found:,}; lost "
        f"{100 * lost.total() / brute:.2f} % (95 %: at "
        f"most {100 * upper_bound(lost.total(), brute):.2f} %), by: {reasons}"
    )


def recall(files: list[Path], index: ValIndex, path: Path) -> tuple[float, float, float]:
    """(recall, extraction ms, ms of all else) of the hard attacks; extraction is the full one."""
    hits, times = [], np.zeros(2)
    for row in plant(files, HARD, path):
        picture = describe(path, index.config)
        start = time.thread_time()
        _ = picture.features
        extracted = time.thread_time()
        hits.append(finds(picture, index, row))
        times += extracted - start, time.thread_time() - extracted
    extraction, search = (times * 1000 / len(hits)).tolist()
    return float(np.mean(hits)), extraction, search


def settings_table(sources: list[Path], folder: Path) -> Table:
    """By setting of the full search, without a coarse search (of which next to nothing is left)."""
    title = f"{len(sources) * len(HARD)} attacked pictures; OpenCV doubles all before extraction"
    names = ("side", "features", "contrast", "", "recall", "extraction ms", "search ms")
    table, default = Table(*names, title=title), DedupConfig()
    none = {"coarse_side": 32, "coarse_features": 16, "coarse_vote": 0.0}
    for setting in SETTINGS:
        least = min(setting["side"], default.min_side)
        index_of(sources, parse(DedupConfig, {**setting, **none, "min_side": least}, ""), folder)
        found, extraction, search = recall(sources, load_index(folder), folder / "picture.jpg")
        star = "*" if all(getattr(default, name) == x for name, x in setting.items()) else ""
        figures = (f"{found:.3f}", f"{extraction:.1f}", f"{search:.1f}")
        table.add_row(*map(str, setting.values()), star, *figures)
    return table


def coarse_table(sources: list[Path], others: list[Path], pool: list[Path], folder: Path) -> Table:
    """By setting of the coarse search: recall, and the cost of `pool`, unknown to the index."""
    title = f"{len(sources) * len(HARD)} attacked pictures; {len(pool)} unrelated ones"
    names = ("side", "features", "vote", "", "recall", "unrelated: searched in full", "ms")
    table, default = Table(*names, title=title), DedupConfig()
    index_of(sources + others, default, folder)
    for setting in COARSE:
        index = ValIndex(folder, parse(DedupConfig, setting, "coarse"))
        found = recall(sources, index, folder / "picture.jpg")[0]
        first, search, full = search_all(pool, index)
        star = "*" if index.config == default else ""
        figures = (f"{found:.3f}", f"{len(full) / len(pool):.2f}", f"{first + search:.1f}")
        table.add_row(*map(str, setting.values()), star, *figures)
    return table


def main() -> None:
    """Command line."""
    parser = parser_of((__doc__ or "").splitlines()[0])
    parser.add_argument("--shortlist", action="store_true", help="only what the shortlists lose")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool, val = images_of(options, folder / "first")
        num = SOURCES if options.shortlist else HARD_SOURCES
        sources, others = pool[:num] + val[:num], val[num:][:OTHERS]
        if options.shortlist:
            console.print(shortlist(sources, others, folder))
        else:
            console.print(coarse_table(sources, others, pool[num:], folder / "coarse"))
            console.print(settings_table(sources, folder / "settings"))


if __name__ == "__main__":
    main()
