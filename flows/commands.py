"""The commands of `ssld`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from data_catalog.base.errors import UserError
from flows import services
from flows.runner import run_recipe
from flows.status import statuses
from tasks.recipe import load_recipes
from tasks.run.session import Session
from tasks.run.store import Store

console = Console(highlight=False, soft_wrap=True)

Recipe = Annotated[str, typer.Argument(help="A recipe in configs/ssld, or the path of one.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: a.b=value. Repeatable.")
]


def run(
    recipe: Recipe,
    only: Annotated[
        str | None, typer.Option(help="Run this stage again, and before it what it needs.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Run this stage and all that follow again.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Run a recipe; what is done is not run again."""
    if only and from_:
        raise UserError("--only and --from exclude each other: give one")
    sys.exit(run_recipe(recipe, settings or [], only, from_, console))


def status(
    recipe: Recipe,
    settings: Settings = None,
    deep: Annotated[bool, typer.Option(help="Read every file and compare its sha256.")] = False,
) -> None:
    """Say for each stage whether it is done, stale (and why), missing, damaged or partial."""
    recipes = load_recipes(recipe, settings or [])
    for each in recipes:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.title = each.name if len(recipes) > 1 else None
        for column in ("stage", "state", "detail"):
            table.add_column(column, overflow="fold")
        colours = {"done": "green", "partial": "yellow", "stale": "yellow", "damaged": "red"}
        for row in statuses(Session(each, Store.default(), deep=deep)):
            state = f"[{colours.get(row.state, 'dim')}]{row.state}[/]"
            table.add_row(row.stage, state, row.detail)
        console.print(table)


def up(port: Annotated[int, typer.Option(help="Port of the server and dashboard.")] = 4200) -> None:
    """Start server, worker and deployments; print the dashboard's address."""
    address = services.up(port, console.print)
    console.print(f"dashboard: {address}")
    console.print("next: prefect deployment run ssld/full")


def down() -> None:
    """Cancel what runs (it saves its work), then stop worker and server."""
    services.down(console.print)
