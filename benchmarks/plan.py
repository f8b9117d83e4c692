"""How near a plan comes to the run: a sample of a recipe against the whole, ten times as large.

    python benchmarks/plan.py [RECIPE] [--set a.b=c ...]

The stages run one after the other in a store of the benchmark's own. Core seconds are of all
processes and stand on a busy machine too; those by the clock are of an idle one.
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ppcls_core.runtime.paddle import import_paddle
from tasks.dag import STAGES
from tasks.recipe import Recipe, load_recipe

console = Console(width=120)


def run_whole(recipe: Recipe, folder: Path) -> dict[str, tuple[float, float, float]]:
    """(core seconds, seconds by the clock, cores of other programs) of each stage of a run."""
    from tasks.plan.timing import Timing, Usage
    from tasks.run.session import Session
    from tasks.run.store import Store

    session, found = Session(recipe, Store(folder)), {}
    with Usage() as usage, session.engines.kept():
        for stage in STAGES.values():
            timing = Timing(usage)
            session.run(stage, timing)
            used = timing.close()
            found[stage.name] = used.total.core, used.total.wall, used.others
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.settings)
    import_paddle()
    from flows.planning import num_cores
    from tasks.plan.estimate import Machines, plan
    from tasks.plan.sample import take_sample

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = take_sample(recipe, {}, (), folder, console.print)
        planned = {row.stage: row for row in plan(sample, Machines(1, num_cores(), 0, {}))}
        console.print(f"sample: {sample.taken} of {sample.whole}")
        run = run_whole(recipe, folder / "whole")
    table = Table("stage", box=None)
    for column in ("core s planned", "run", "ratio", "clock s planned", "run", "others' cores"):
        table.add_column(column, justify="right")
    sums = [0.0] * 4
    for stage, (core, wall, others) in run.items():
        row = planned[stage]
        figures = (3600 * row.core_hours, core, row.seconds, wall)
        sums = [a + b for a, b in zip(sums, figures, strict=True)]
        table.add_row(stage, *_texts(*figures), f"{others:.1f}")
    table.add_row("in all", *_texts(*sums), "", style="bold")
    console.print(table)


def _texts(core: float, ran: float, clock: float, wall: float) -> list[str]:
    ratio = f"{core / ran:.2f}" if ran else ""
    return [f"{core:.1f}", f"{ran:.1f}", ratio, f"{clock:.1f}", f"{wall:.1f}"]


if __name__ == "__main__":
    main()
