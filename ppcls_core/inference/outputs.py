"""Predictions as a table, as JSON lines or as CSV, written while they come in."""

import csv
import json
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO, get_args

from rich.console import Console
from rich.table import Table

from data_catalog.base.config import UserError
from data_catalog.base.files import atomic_path
from data_catalog.base.words import reason_in_words
from ppcls_core.inference.inputs import STDIN
from ppcls_core.inference.predict import Row
from ppcls_core.inference.sidecar import FILES, SIDECAR, read_sidecar
from ppcls_core.runtime.terminal import escaped

Format = Literal["table", "json", "csv"]
PAGE = 100  # images in a table; the next ones are in another, so that none has to be kept


class Writer:
    """Writes rows to a text file."""

    def __init__(self, file: TextIO, top_k: int) -> None:
        self.file, self.top_k = file, top_k

    def write(self, rows: Sequence[Row]) -> None:
        """Write these rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is still held back."""


class JsonLines(Writer):
    """An object a line: image, label if there is one, and predictions, or reason and detail."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write a line for each row."""
        for row in rows:
            self.file.write(json.dumps(_record(row), ensure_ascii=False) + "\n")


class Csv(Writer):
    """A line an image: image, label, reason, detail, then class, name and probability of each."""

    def __init__(self, file: TextIO, top_k: int) -> None:
        super().__init__(file, top_k)
        self._writer = csv.writer(file, lineterminator="\n")
        guess = [f"{name}{n}" for n in range(1, top_k + 1) for name in ("class", "name", "prob")]
        self._writer.writerow(["image", "label", "reason", "detail", *guess])

    def write(self, rows: Sequence[Row]) -> None:
        """Write a line for each row."""
        for row in rows:
            cells: list[object] = [row.picture.name, row.picture.label, row.reason, row.detail]
            for guess in row.guesses:
                cells += [guess.number, guess.name, f"{guess.probability:.6f}"]
            self._writer.writerow(cells + [""] * (4 + 3 * self.top_k - len(cells)))


class Tables(Writer):
    """For people: a line an image and class."""

    def __init__(self, file: TextIO, top_k: int) -> None:
        super().__init__(file, top_k)
        width = None if file.isatty() else 160  # Rich takes 80 for a file, which cuts the names
        self._console = Console(emoji=False, file=file, highlight=False, markup=False, width=width)
        self._table, self._num = _table(), 0

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows to the table, which is printed when it has PAGE images."""
        for row in rows:
            name = _cell(row.picture.name)
            for guess in row.guesses:
                share = f"{guess.probability:.4f}"
                self._table.add_row(name, str(guess.number), _cell(guess.name), share)
                name = ""
            if row.reason:
                why = _cell(f"{reason_in_words(row.reason)}: {row.detail}")
                self._table.add_row(name, "-", "-", "-", why)
                self._table.columns[-1].header = "why not"
            self._num += 1
            if self._num == PAGE:
                self.close()

    def close(self) -> None:
        """Print the table if it has rows, and begin another."""
        if self._num:
            self._console.print(self._table)
        self._table, self._num = _table(), 0


def _cell(text: str) -> str:
    """`text` on one line."""
    return escaped(text).replace("\n", "\\n")


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class", justify="right", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column(overflow="fold")  # the reasons, where an image has one
    return table


def _record(row: Row) -> dict[str, object]:
    record: dict[str, object] = {"image": row.picture.name}
    if row.picture.label is not None:
        record["label"] = row.picture.label
    if row.reason:
        return record | {"reason": row.reason, "detail": row.detail}
    guesses = [
        {"class": guess.number, "name": guess.name, "probability": round(guess.probability, 6)}
        for guess in row.guesses
    ]
    return record | {"predictions": guesses}


WRITERS: dict[Format, type[Writer]] = {"table": Tables, "json": JsonLines, "csv": Csv}
RESULTS = (".txt", ".csv", ".json", ".jsonl")
_BY_SUFFIX: dict[str, Format] = {".json": "json", ".jsonl": "json", ".csv": "csv"}


def format_of(form: str | None, out: Path | None) -> Format:
    """The form asked for, else the one that the suffix of `out` says, else a table. Raises
    UserError: `out` is a folder."""
    if out and out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    for known in get_args(Format):
        if form == known:
            return known
    return _BY_SUFFIX.get(out.suffix.lower(), "table") if out else "table"


def check_target(out: Path, inputs: Iterable[str]) -> None:
    """Raise UserError if writing `out` would destroy what is no earlier result, or `out` is -."""
    if str(out) == STDIN:
        raise UserError("--out -: leave it out to write to standard output, or name a file")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_file():
        raise UserError(f"--out {out}: is a link or a device; give the name of a file")
    is_model = out.name in FILES and (out.parent / SIDECAR).is_file()
    is_input = out.resolve() in {Path(name).resolve() for name in inputs}
    if is_model or is_input or out.suffix.lower() not in RESULTS:
        raise UserError(
            f"--out {out}: is there and is no earlier result ({', '.join(RESULTS)}, and no input); "
            "give another name, or remove it"
        )


def check_folder(out: Path, names: Iterable[str], weights: Path | None) -> None:
    """Raise UserError if writing `names` into `out` would destroy what is no earlier export.

    `weights` are those that are exported: they are never written over.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give the name of a folder")
    for name in names:
        path = out / name
        if not os.path.lexists(path):
            continue
        is_weights = weights and weights.exists() and path.exists() and path.samefile(weights)
        if is_weights or path.is_symlink() or not path.is_file() or not _is_export(out):
            raise UserError(
                f"--out {out}: {name} is there and is {'the weights' if is_weights else 'foreign'}"
                "; give another folder, or move it away"
            )


def _is_export(folder: Path) -> bool:
    try:
        read_sidecar(folder / SIDECAR)
    except (UserError, OSError):
        return False
    return True


@contextmanager
def opened(form: Format, out: Path | None, top_k: int) -> Generator[Writer]:
    """A writer to the file `out`, which is whole or absent, or to standard output."""
    if out is None:
        writer = WRITERS[form](sys.stdout, top_k)
        yield writer
        return writer.close()
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = WRITERS[form](file, top_k)
        yield writer
        writer.close()
