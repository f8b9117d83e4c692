"""`ssld trace`: where weights, an exported model or a removal list come from."""

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
import yaml
from rich.console import Console
from rich.table import Table

from data_catalog.base.words import counted, reason_in_words
from data_catalog.recipes import MANIFEST, known_recipes, newest_result
from ppcls_core.cli.common import tell
from ppcls_core.inference.exported import is_exported
from tasks.dag import STAGES
from tasks.recipe import STUDENTS
from tasks.run.counts import described, left_out, shown_counts
from tasks.run.reasons import flat
from tasks.run.source import source_hash
from tasks.run.store import Result, Store
from tasks.trace import Trail, damages, is_derived, outside, trail_of

_KEY = {  # settings of each stage that say most of it
    "data": ("data.labelled", "data.pool"),
    "overlap": ("overlap.remove",),
    "dedup": ("dedup.rule",),
    "teacher": ("teacher.model.name", "teacher.train.mode", "teacher.onnx", "teacher.labels"),
    "label": ("label.precision",),
    "select": ("select.policy", "select.k"),
    **{
        name: ("student.name", *(f"{name}.{key}" for key in ("epochs", "image_size", "lr")))
        for name in STUDENTS
    },
}
LISTS = ("train.arrow", "teacher.arrow", "val.arrow", "pool.arrow", "kept.arrow")
console = Console(emoji=False, highlight=False, soft_wrap=True, markup=False)


def trace(
    file: Annotated[
        Path,
        typer.Argument(
            help="Weights, an exported model's folder, removed.json, kept.parquet ...; of a recipe "
            "the student that it exported last."
        ),
    ],
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="All settings, digests, versions and code, and what was left out."
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all files of these stages; compare their sha256.")
    ] = False,
) -> None:
    """Say which recipe and stages made a file, with their key settings and numbers of images."""
    store = Store.default()
    is_own = is_exported(file) or (file / MANIFEST).is_file()
    taken = "the folder of that name" if is_own else ""
    trail = trail_of(newest_result(str(file), "export", tell, taken) or file, store)
    done = {result.stage: result for result in trail.results}
    if full:
        _print_all(trail, done)
    else:
        _print_short(trail, done)
    _print_beside(trail)
    for stage in trail.missing:
        console.print(f"{stage}: its result is no longer in {store.root}", style="yellow")
    if trail.equal:
        console.print(
            f"{counted(trail.equal, 'other result has', 'other results have')} the same files"
        )
    if verify and not _is_whole(trail):
        sys.exit(1)


def _print_short(trail: Trail, done: Mapping[str, Result]) -> None:
    """Print whose file it is, and a line a stage."""
    made_by = trail.made_by
    recipes = (
        ", ".join(_recipes_of(made_by)) or "an earlier run of one: no recipe has this result now"
    )
    console.print(f"recipe: {recipes}")
    console.print(f"result: {made_by.directory}")
    console.print()
    table = Table("stage", box=None, pad_edge=False, header_style="bold")
    table.add_column("made (UTC)", no_wrap=True)
    table.add_column("images")
    table.add_column("settings", overflow="fold", min_width=30)
    for result in trail.results:
        made = result.record["finished"][:16].replace("T", " ")
        counts = described(shown_counts(result, done))
        table.add_row(result.stage, made, counts, _key_settings(result))
    console.print(table)
    console.print("--full tells all settings, digests, versions, and what was left out why")


def _recipes_of(result: Result) -> Iterator[str]:
    """The recipes that have run here and whose newest result of its stage this is."""
    store = Store.default()
    for recipe in known_recipes():
        if store.last(recipe).get(result.stage) == result.key:
            yield recipe


def _key_settings(result: Result) -> str:
    settings = flat(result.settings)
    found = {
        name.removeprefix(f"{result.stage}."): settings.get(name)
        for name in _KEY.get(result.stage, ())
    }
    return ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)


def _print_all(trail: Trail, done: Mapping[str, Result]) -> None:
    """Print all that is known of each stage, and what was left out."""
    for result in trail.results:
        console.print(f"{result.stage}", style="bold")
        for name, text in _about(result, done):
            console.print(f"  {name:<10}{text}")
        console.print()
    _print_removed(trail)


def _about(result: Result, done: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    """What decided a result, one of `done`, and what it has."""
    record = result.record
    yield "result", f"{result.directory}"
    yield "made", f"{record['finished']} in {record['seconds']:,.1f} s"
    yield "digest", result.digest
    yield "code", f"version {result.version}, source {record['source'][:16]} ({_code(result)})"
    yield "with", ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    for name, digest in outside(result).items():
        yield "from", f"{name}: sha256 {digest}"
    for name in LISTS:
        if name in result.files:
            images = _images_in(result.path(name))
            yield "images", f"{name} ({images}): sha256 {result.files[name].sha256}"
    if counts := described(shown_counts(result, done)):
        yield "counts", counts
    for section, value in result.settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
        yield "settings", f"{section}: {text.partition(chr(10))[0]}"


def _images_in(path: Path) -> str:
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows
    except (OSError, pa.ArrowInvalid):  # which --verify tells
        return "which cannot be read"
    return counted(rows, "image")


def _code(result: Result) -> str:
    stage = STAGES[result.stage]
    if result.version != stage.version:
        return f"this program has version {stage.version}"
    if result.record["source"] != source_hash(stage.module):
        return "of the same version, but not letter for letter this program's"
    return "this program's"


def _print_removed(trail: Trail) -> None:
    """Print how many images each stage did without, and why."""
    console.print("left out", style="bold")
    rows = [row for row in left_out(trail.results) if row.number]
    for row in rows:
        console.print(f"  {row.stage}: {row.number:,} {reason_in_words(row.reason)}")
    if not rows:
        console.print("  nothing")
    console.print()


def _print_beside(trail: Trail) -> None:
    """Print which files the trail does not vouch for: nothing in the store says how they came."""
    derived = [str(file) for file in trail.beside if is_derived(file)]
    others = [str(file) for file in trail.beside if not is_derived(file)]
    if derived:
        console.print(
            f"not in the store, made afterwards from the student of {trail.made_by.directory} "
            f"(exported, converted or quantised): {', '.join(derived)}"
        )
    if others:
        console.print(f"not in the store, beside that student: {', '.join(others)}")


def _is_whole(trail: Trail) -> bool:
    """Whether every file of the trail is there and as it was made; tell those that are not."""
    found = list(damages(trail))
    for stage, damage in found:
        console.print(f"{stage}: {damage}", style="red")
    if not found:
        num = sum(len(result.files) for result in trail.results)
        console.print(
            f"verified: each of {counted(num, 'file')} has the sha256 that it was made with"
        )
    return not found and not trail.missing
