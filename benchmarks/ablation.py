"""What does each part of the recipe bring, beyond chance? Without Prefect.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py configs/ablation/clothes.yaml

Prints for each row the mean top-1 over the seeds, and its gain: the mean difference from the first
row of the same seeds, with the 95 % interval of that mean (Student's t). Results are cached as
always.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_catalog.base.config import Config, load_yaml, parse
from ppcls_core.runtime.monitor import SilentMonitor
from tasks.dag import needed_for
from tasks.recipe import load_recipe
from tasks.run.session import Session
from tasks.run.store import Store

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # by values


class Row(Config):
    """The model that `stage` of the recipe makes under the settings `set`."""

    name: str
    stage: str
    set: tuple[str, ...] = ()


class Ablation(Config):
    """Rows to compare with the first; `recipe` is a name in configs/ssld, or a path."""

    recipe: str
    set: tuple[str, ...] = ()  # of all rows
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


def top1(ablation: Ablation, row: Row, seed: int) -> float:
    """In percent, of one training."""
    session = Session(
        load_recipe(ablation.recipe, [*ablation.set, *row.set, f"seed={seed}"]), Store.default()
    )
    for stage in needed_for(row.stage):
        result = session.find(stage).result
        if result is None:
            session.run(stage, SilentMonitor())
        else:
            session.accept(result)
    return 100 * session.done[row.stage].metrics["top1"]


def interval(values: list[float]) -> str:
    """`mean +- half width` of the 95 % interval of the mean."""
    if len(values) not in T_95:
        return f"{statistics.mean(values):+.1f}"
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.1f} \u00b1 {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+")
    arguments = parser.parse_args()
    ablation = parse(Ablation, load_yaml(arguments.file), str(arguments.file))
    seeds = arguments.seeds or list(ablation.seeds)
    console = Console()
    table = Table(
        "",
        *(f"seed {seed}" for seed in seeds),
        "mean",
        "gain, 95 %",
        box=None,
        padding=(0, 1, 0, 0),
    )
    reference: list[float] = []
    for row in ablation.rows:
        values = [top1(ablation, row, seed) for seed in seeds]
        reference = reference or values
        gains = [value - base for value, base in zip(values, reference, strict=True)]
        against = interval(gains) if row is not ablation.rows[0] else ""
        shown = (f"{value:.1f}" for value in (*values, statistics.mean(values)))
        table.add_row(row.name, *shown, against)
        console.print(f"{row.name}: {statistics.mean(values):.1f}", style="dim")
    console.print(table)
    seconds = sum(os.times()[:4])  # of this process and its children
    console.print(f"{seconds / 60:.1f} CPU-minutes")


if __name__ == "__main__":
    main()
