"""Does distillation help beyond chance? The pipeline over several seeds, without Prefect.

    python benchmarks/seeds.py demo --seeds 0 1 2

Prints top-1 of every model for each seed, and mean, standard deviation and the number of seeds in
which the distilled, finetuned and fixed student beat the baseline. Results are cached as always.
"""

from __future__ import annotations

import argparse
import statistics

from rich.console import Console
from rich.table import Table

from ppcls_core.monitor import SilentMonitor
from tasks.dag import needed_for
from tasks.evaluate import STUDENTS
from tasks.recipe import load_recipe
from tasks.stage import Session
from tasks.store import Store


def accuracies(recipe: str, seed: int, settings: list[str]) -> dict[str, float]:
    """Top-1 of each model when the recipe is run with `seed`."""
    session = Session(load_recipe(recipe, [*settings, f"seed={seed}"]), Store.default())
    for stage in needed_for("evaluate"):
        result, _ = session.find(stage)
        if result is None:
            session.run(stage, SilentMonitor())
        else:
            session.accept(result)
    return session.done["evaluate"].metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    arguments = parser.parse_args()
    models = ("teacher", *STUDENTS)
    table = Table("seed", *models, title=f"{arguments.recipe}: top-1 in percent")
    rows = []
    for seed in arguments.seeds:
        rows.append(accuracies(arguments.recipe, seed, arguments.settings))
        table.add_row(str(seed), *(f"{100 * rows[-1][name]:.1f}" for name in models))
    means = (statistics.mean(row[name] for row in rows) for name in models)
    table.add_row("mean", *(f"{100 * mean:.1f}" for mean in means), style="bold")
    console = Console()
    console.print(table)
    for name in STUDENTS[1:]:
        gains = [100 * (row[name] - row["baseline"]) for row in rows]
        spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
        console.print(
            f"{name}: {statistics.mean(gains):+.1f} points over the baseline, standard deviation "
            f"{spread:.1f}, better in {sum(g > 0 for g in gains)} of {len(gains)} seeds"
        )


if __name__ == "__main__":
    main()
