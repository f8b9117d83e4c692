"""Public data sets, laid out for the recipes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from data_catalog import flowers102
from data_catalog.base.words import counted
from ppcls_core.cli.common import log


def data(
    name: Annotated[Literal["flowers102"], typer.Argument(help="The data set.")],
    folder: Annotated[Path, typer.Argument(help="Its folder; recipes: ./dataset/flowers102.")],
) -> None:
    """Make a data set's images and lists: flowers102 for PaddleClas's quick start.

    The three files 102flowers.tgz, imagelabels.mat and setid.mat are downloaded (345 MB; the same
    command again goes on where it broke off), or taken from the folder where they lie there.
    """
    for split, number in flowers102.prepare(folder, log).items():
        log(f"{counted(number, 'image')}: {folder / f'{split}_list.txt'}")
