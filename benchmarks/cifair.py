"""The duplicate search beside the list of CIFAR's duplicates that people have judged.

    ppcls dedup cifar10/train --against cifar10/test --out found
    python benchmarks/cifair.py found duplicates_cifar10.csv

Barz and Denzler 2020, "Do we train on test data? Purging CIFAR of near-duplicates", publish the
list with ciFAIR (github.com/cvjena/cifair, meta/duplicates_cifar10.csv and its README): a row a
pair with TestID, TrainID, Distance and Judgment (0 exact duplicate, 1 near-duplicate, 2 very
similar). IDs count from 0 in the order of CIFAR's batches. The images are files whose names end
with that number (`train/00042.png`, `test/cat/test_0003.png`), in folders as you like.
"""

import argparse
import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

JUDGEMENTS = ("exact", "near-duplicate", "very similar")


class Pair(NamedTuple):
    """A test image and a training image, by their numbers in CIFAR."""

    test: int
    train: int


COLUMNS = ("TestID", "TrainID", "Judgment")


def listed(path: Path) -> Iterator[tuple[Pair, int]]:
    """(pair, judgement) of each row of the published list."""
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            cells = [row.get(name) or "" for name in COLUMNS]
            if not all(map(str.isdigit, cells)) or int(cells[2]) >= len(JUDGEMENTS):
                expected = f"numbers under {', '.join(COLUMNS)}, the last at most 2"
                raise SystemExit(f"{path}:{number}: got {cells}, expected {expected}")
            yield Pair(int(cells[0]), int(cells[1])), int(cells[2])


def index_of(image_id: str) -> int:
    """CIFAR's number in the name of an image file."""
    numbers = re.findall(r"\d+", Path(image_id).stem)
    if not numbers:
        raise SystemExit(f"{image_id}: has no number in its name, expected such as 00042.png")
    return int(numbers[-1])


def found(folder: Path) -> set[Pair]:
    """The pairs of a finished search."""
    table = pq.read_table(folder / "pairs.parquet", columns=["pool_id", "val_id"])
    columns = (table[name].to_pylist() for name in ("val_id", "pool_id"))
    return {Pair(*map(index_of, ids)) for ids in zip(*columns, strict=True)}


def compared(rows: Iterable[tuple[Pair, int]], pairs: set[Pair]) -> list[tuple[str, int, int, int]]:
    """(judgement, test images on the list, of them found, found with the list's partner)."""
    tests = {pair.test for pair in pairs}
    result = []
    rows = list(rows)
    for number, name in enumerate(JUDGEMENTS):
        of_kind = {pair for pair, judgement in rows if judgement == number}
        on_list = {pair.test for pair in of_kind}
        same = {pair.test for pair in of_kind & pairs}
        result.append((name, len(on_list), len(on_list & tests), len(same)))
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("search", type=Path, help="folder of `ppcls dedup TRAIN --against TEST`")
    parser.add_argument("list", type=Path, help="the published CSV file")
    given = parser.parse_args()
    pairs, rows = found(given.search), list(listed(given.list))
    table = Table("judged", "test images", "found", "with the same partner", box=None)
    for row in compared(rows, pairs):
        table.add_row(*map(str, row))
    console = Console(highlight=False)
    console.print(table)
    tests = {pair.test for pair in pairs}
    beyond = tests - {pair.test for pair, _ in rows}
    console.print(
        f"found in all: {len(tests):,} test images, {len(beyond):,} of them not on the list; "
        f"{len({pair.train for pair in pairs}):,} training images show them"
    )


if __name__ == "__main__":
    main()
