"""`ssld init`: from a folder of photographs to a data set and a recipe."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from data_catalog.base.words import counted
from ppcls_core.cli.common import console, log
from tasks.start.files import CLASSES, files_of, write
from tasks.start.photos import IN_SEVERAL, Photos, inspect, inspect_pool
from tasks.start.recipe import machine_size, warnings_of

MAX_CLASSES = 40  # rows of the table


def init(
    folder: Annotated[Path, typer.Argument(help="It holds a folder (or tar) of images a class.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A table of files and their classes (CSV, with or without a head) instead, or "
            "`path label` lines with labels from 0 on; paths are relative to FOLDER."
        ),
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="A folder of unlabelled images.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the recipe; by default that of FOLDER.")
    ] = None,
) -> None:
    """Look at a folder of photographs; write a data set and a recipe for it and this machine.

    FOLDER holds a folder a class, or `train` and `val` (or `valid`, `validation`, `test`) that do,
    and perhaps `pool` (or `unlabelled`) without classes. Without `val` a fifth of each class is set
    apart. NAME.yaml and NAME_data are written to the current folder; the images stay as they are.
    Again after images have come or gone it says what has changed; a recipe that you have edited is
    kept, and so are the validation images.

    ssld init my_photos
    ssld run my_photos
    """
    files = files_of(folder, Path.cwd(), name)
    found = inspect(folder, labels, _progress, files.list_of("val"))
    there = (pool, inspect_pool(pool, _progress)) if pool else None
    changes = write(found, there, files)
    size = machine_size()
    _show(found, there and there[1])
    for warning in warnings_of(found, size):
        log(f"warning: {warning}")
    if found.is_numbered:
        where = files.data / CLASSES
        log(f"note: the classes have numbers alone; names that you write into {where} are kept")
    log("")
    for change in changes:
        log(f"again: {change}")
    recipe = shlex.quote(files.recipe.name)
    own = "" if files.is_edited(files.recipe) else f"{recipe} (the recipe, for {size.about}), "
    log(f"written: {own}{files.data.name}/")
    log(f"next: ssld plan {recipe}   what it will take")
    log(f"      ssld run {recipe}    to the report")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"\r{done:,} of {total:,} images", end=end, file=sys.stderr)


def _show(found: Photos, pool: Photos | None) -> None:
    """The table of classes, then what was found, left out, and set apart."""
    table = Table("class", box=None, pad_edge=False, header_style="bold")
    for title in ("train", "val"):
        table.add_column(title, justify="right")
    train, val = found.per_class("train"), found.per_class("val")
    order = np.argsort(-train, kind="stable")
    for label in order[:MAX_CLASSES].tolist():
        table.add_row(found.classes[label], f"{train[label]:,}", f"{val[label]:,}")
    table.add_row("all", f"{train.sum():,}", f"{val.sum():,}", style="bold")
    console.print(table)
    if len(order) > MAX_CLASSES:
        log(f"the {MAX_CLASSES} largest of {len(order):,} classes")
    if found.made_val:
        log("val: a fifth of each class was set apart, chosen by the images' content")
    _tell_left_out(found, "left out")
    if pool:
        _tell_left_out(pool, "left out of the pool")
    sides = np.array([found.sizes[row] for row in found.sizes])
    if len(sides):
        height, width = np.median(sides, axis=0)
        least, most = sides.min(1).min(), sides.min(1).max()
        short = f"of {least}" if least == most else f"from {least} to {most}"
        log(f"size: median {width:.0f} x {height:.0f} pixels, short sides {short}")
    if pool:
        unusable = f", {len(pool.left_out):,} of which cannot be used" * bool(pool.left_out)
        log(f"pool: {counted(len(pool.split), 'image')}{unusable}")
    elif own := len(found.rows("pool")):
        log(f"pool: {counted(own, 'image')}")
    else:
        log("pool: none; the student learns from the labelled images alone (--pool FOLDER)")


def _tell_left_out(found: Photos, what: str) -> None:
    """The images that take no part, by reason, and what else is to be known."""
    for reason, rows in found.reasons().items():
        log(f"{what}: {_counted(found, reason, rows)}: {reason} ({found.named(rows)})")
    for note in found.notes:
        log(f"note: {note}")


def _counted(found: Photos, reason: str, rows: Sequence[int]) -> str:
    """How many images `rows` are, a photograph once that lies in several classes."""
    num = found.num_photographs(rows) if reason == IN_SEVERAL else len(rows)
    photographs = f" ({counted(num, 'photograph')})" if num < len(rows) else ""
    return f"{counted(len(rows), 'image')}{photographs}"
