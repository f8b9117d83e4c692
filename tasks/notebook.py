"""For a notebook: find duplicates, train or distill from a recipe, label or classify images.

    from tasks.notebook import find_duplicates, open_model, run_recipe

    find_duplicates("photos/new", "photos/test", out="duplicates")
    run = run_recipe("my_photos.yaml", "select.k=40")
    model = run.model                      # or open_model("my_photos.yaml")
    model.label("photos/new")              # soft labels of many images
    model("cat.jpg")                       # classes of one

Each call shows its progress, and returns an object that a notebook shows as a table. They run the
jobs of `ppcls dedup`, `ssld run` and `ppcls predict`, with their caches and results, without
Prefect. Mistakes raise UserError, whose text says what to do.
"""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup, escape
from PIL.Image import Image, fromarray

from data_catalog.base.config import UserError, override, parse
from data_catalog.base.words import counted, reason_in_words
from data_catalog.images.columns import Made
from data_catalog.recipes import remember_recipe
from ppcls_core.cli.common import bars
from ppcls_core.cli.dedup import search_given
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.inference.exported import Exported, find_exported
from ppcls_core.inference.inputs import Given, Picture, given_images
from ppcls_core.inference.predict import Classifier, Guess, Row, classify
from ppcls_core.report.model import percent
from ppcls_core.report.search import PAGE
from ppcls_core.runtime.paddle import import_paddle
from tasks.dag import needed_for
from tasks.recipe import load_recipe
from tasks.run.reasons import reason_to_run
from tasks.run.session import Session
from tasks.run.store import Store

Several = str | Path | Sequence[str | Path]  # one, or a list of them
SETTINGS = "settings such as 'select.k=40', each by itself or in a list"
NUM_SHOWN = 20  # rows of a table in a notebook
BATCH_SIZE = 32


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], num: int) -> str:
    """The first rows of `num` as HTML, all text escaped."""
    cells = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    lines = [Markup("<tr>") + cells + Markup("</tr>")]
    for row, _ in zip(rows, range(NUM_SHOWN), strict=False):
        texts = Markup("").join(Markup("<td>{}</td>").format(value) for value in row)
        lines.append(Markup("<tr>") + texts + Markup("</tr>"))
    more = Markup("<p>{} of {}</p>").format(NUM_SHOWN, num) if num > NUM_SHOWN else ""
    return Markup("<table>") + Markup("").join(lines) + Markup("</table>") + more


def _flat(given: Iterable[Several], what: str) -> list[str]:
    """Each of `given`, and of the lists among them. Raises UserError: something else, which should
    be `what`."""
    found = list[str]()
    for each in given:
        if isinstance(each, str | Path):
            found.append(str(each))
        elif isinstance(each, list | tuple):
            found += _flat(each, what)
        else:
            raise UserError(f"got {type(each).__name__} ({each!r:.60}), expected {what}")
    return found


@dataclass(frozen=True, repr=False)
class Table:
    """A table that prints its first rows, `shown` of its columns or all; table["column"] is one of
    them. `arrow` is the Arrow table, so `arrow.to_pandas()` the data frame."""

    arrow: pa.Table
    shown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrow)

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.arrow[column]

    def _lines(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as they are shown."""
        head = list(self.shown or self.arrow.column_names)
        shown = self.arrow.select(head).slice(0, NUM_SHOWN)
        columns = [_cells(column.to_pylist()) for column in shown.columns]
        return head, [list(row) for row in zip(*columns, strict=True)]

    def __repr__(self) -> str:
        head, rows = self._lines()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in (head, *rows)]
        return "\n".join([*lines, *[f"{NUM_SHOWN} of {len(self):,}"] * (len(self) > NUM_SHOWN)])

    def html(self) -> str:
        """The same as HTML."""
        return html_table(*self._lines(), len(self))

    def _repr_html_(self) -> str:
        return self.html()


def _cells(column: list[object]) -> list[str]:
    """The values of a column as text, its fractions with as many digits as the largest needs."""
    values = [v for value in column for v in (value if isinstance(value, list) else [value])]
    largest = max((abs(v) for v in values if isinstance(v, float)), default=0.0)
    digits = 1 if largest >= 10 else 3

    def text(value: object) -> str:
        if isinstance(value, list):
            return " to ".join(map(text, value))
        return (
            ""
            if value is None
            else f"{value:.{digits}f}"
            if isinstance(value, float)
            else f"{value}"
        )

    return list(map(text, column))


@dataclass(frozen=True)
class Duplicates:
    """Images that show another image: `pairs` as in pairs.parquet (pool_id, val_id, channel, score
    ...), `page` to look at them, `result` with all counts."""

    pairs: Table
    page: Path
    result: SearchResult

    def __repr__(self) -> str:
        return f"{counted(len(self.pairs), 'pair')} ({self._counts()}); to look at: {self.page}"

    def _counts(self) -> str:
        return ", ".join(f"{name} {n:,}" for name, n in self.result.pool_counts.items())

    def _repr_html_(self) -> str:
        """Counts, a link to the page and the first pairs."""
        link = Markup('<p>{}: <a href="{}">the pairs to look at</a></p>').format(
            self._counts(), self.page
        )
        return link + self.pairs.html()


def find_duplicates(
    pool: str | Path, against: str | Path | None, out: str | Path, *settings: Several
) -> Duplicates:
    """Images of `pool` that show an image of `against`, or with None another one of the pool.

    `pool` and `against` are folders, lists or tars; all results go to the folder `out`, where the
    same call goes on if it was stopped. `settings` are those of `ppcls dedup -o`: "rule=strict",
    each by itself or in a list.
    Raises UserError: as `ppcls dedup`.
    """
    config = parse(DedupConfig, override({}, _flat(settings, SETTINGS)), "find_duplicates")
    folder, other = Path(out), None if against is None else Path(against)
    with bars() as monitor:
        result = search_given(Path(pool), other, folder, config, monitor)
    columns = ("pool_id", "val_id", "channel", "score")
    pairs = Table(pq.read_table(folder / "pairs.parquet"), columns)
    return Duplicates(pairs, folder / PAGE, result)


@dataclass(frozen=True)
class Labels:
    """Soft labels: `table` has image, class, probability and reason (why an image has none),
    `probabilities` is float32 [N, C], NaN in the rows that have a reason."""

    table: Table
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        num = len(self.table)
        without = num - self.table["reason"].to_pylist().count("")
        but = f"; {without:,} without, for the reason in `table`" if without else ""
        return f"soft labels of {counted(num, 'image')}, {counted(len(self.classes), 'class')}{but}"

    def _repr_html_(self) -> str:
        """The first images."""
        return self.table.html()


@dataclass(frozen=True)
class Guesses:
    """The likeliest classes of one image, the best first."""

    image: str
    guesses: Sequence[Guess]

    def __repr__(self) -> str:
        shown = (f"{guess.name} {percent(guess.probability)} %" for guess in self.guesses)
        return f"{self.image}: {', '.join(shown)}"

    def _repr_html_(self) -> str:
        """A row a class."""
        rows = [(guess.name, f"{percent(guess.probability)} %") for guess in self.guesses]
        return html_table((self.image, "probability"), rows, len(rows))


class Model:
    """An exported model, ready to classify; `classes` are its names.

    It runs on Paddle's training engine, which leaves later trainings of this process as they are;
    `ppcls predict` and `ppcls serve` are faster.
    """

    def __init__(self, exported: Exported) -> None:
        self.folder, self.classes = exported.directory, exported.sidecar.classes
        import_paddle()
        predict = exported.on_training_engine()
        self._classifier = Classifier(
            predict, exported.sidecar.preprocess, self.classes, len(self.classes)
        )

    def __call__(self, image: str | Path | np.ndarray | Image, top_k: int = 5) -> Guesses:
        """The `top_k` likeliest classes of one image: a file, a picture of Pillow's, or uint8 RGB
        [H, W, 3]. Raises UserError: it cannot be read, or is more than one image."""
        if isinstance(image, str | Path):
            name, given = str(image), given_images([str(image)])
        else:
            name = f"{type(image).__name__} in memory"
            data = _as_file(image)
            given = [Picture(0, name, Made(lambda: data), None)]
        if len(given) != 1:
            raise UserError(f"{name}: is of {len(given):,} images; label them by model.label(...)")
        (row,) = self._rows(given)
        if row.reason:
            why = f"{reason_in_words(row.reason)} ({row.detail})"
            raise UserError(f"{name}: cannot be classified: {why}")
        return Guesses(name, row.guesses[:top_k])

    def label(self, *images: Several) -> Labels:
        """The probability of each class for many images: files, folders, lists or tars, each by
        itself or in a list. Raises UserError: there is no image at all."""
        rows = self._rows(given_images(_flat(images, "files, folders, lists or tars")))
        shares = np.full((len(rows), len(self.classes)), np.nan, np.float32)
        for number, row in enumerate(rows):
            for guess in row.guesses:
                shares[number, guess.number] = guess.probability
        best = [row.guesses[0] if row.guesses else None for row in rows]
        table = pa.table(
            {
                "image": [row.picture.name for row in rows],
                "class": [guess and guess.name for guess in best],
                "probability": [guess and round(guess.probability, 4) for guess in best],
                "reason": [reason_in_words(row.reason) for row in rows],
            }
        )
        return Labels(Table(table), shares, self.classes)

    def _rows(self, given: Given | list[Picture]) -> list[Row]:
        rows, workers = list[Row](), len(os.sched_getaffinity(0))
        with bars() as monitor:
            for batch in classify(self._classifier, given, BATCH_SIZE, workers):
                rows += batch
                monitor.progress(len(rows), len(given), "images")
        return rows

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:NUM_SHOWN]) + ", ..." * (len(self.classes) > NUM_SHOWN)
        return f"model of {counted(len(self.classes), 'class')} ({names}): {self.folder}"

    def _repr_html_(self) -> str:
        """Its folder and classes."""
        return escape(repr(self))


def _as_file(image: np.ndarray | Image) -> bytes:
    """The PNG of a picture in memory. Raises UserError: of other pixels."""
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{type(image).__name__} of {pixels.dtype} {list(pixels.shape)}"
        raise UserError(
            f"got {got}, expected a file, a picture of Pillow's, or uint8 RGB [H, W, 3]"
        )
    buffer = io.BytesIO()
    fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def open_model(given: str | Path) -> Model:
    """The exported model in the folder `given`, or the student that the recipe of this name, or in
    this file, exported last. Raises UserError: there is none."""
    return Model(find_exported(given, print))


@dataclass(frozen=True)
class FinishedRun:
    """A recipe that has been run: `session.done` holds each stage's result."""

    session: Session

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.session.done["report"].path("report.html")

    @property
    def model(self) -> Model:
        """The exported student."""
        return open_model(self.session.done["export"].directory)

    @property
    def accuracies(self) -> Table:
        """model, top-1 in percent, gain over the baseline and its 95 % interval in points."""
        rows = resolve_name("tasks.stages.report:accuracies")(self.session.done["evaluate"])
        columns = {
            "model": [row.label for row in rows],
            "top1_percent": [100 * row.top1 for row in rows],
            "gain_points": [row.gain for row in rows],
            "interval_points": [list(row.gain_range) or None for row in rows],
        }
        return Table(pa.table(columns))

    def __repr__(self) -> str:
        name, done = self.session.recipe.name, self.session.done
        if "report" not in done:
            return f"{name}: {', '.join(done)} are done"
        shown = (
            f"{r['model']} {r['top1_percent']:.1f} %" for r in self.accuracies.arrow.to_pylist()
        )
        return f"{name}: top-1 {', '.join(shown)}; report: {self.report}"

    def _repr_html_(self) -> str:
        """The accuracies and a link to the report."""
        if "report" not in self.session.done:
            return escape(repr(self))
        link = Markup('<p><a href="{}">report</a></p>').format(self.report)
        return self.accuracies.html() + link


def run_recipe(recipe: str | Path, *settings: Several, until: str = "report") -> FinishedRun:
    """Run a recipe, named as for `ssld run`, up to a stage; what is done is not run again.

    `settings` are those of `ssld run --set`: "select.k=40", each by itself or in a list.
    `until="baseline"` trains on labels alone, `until="distill"` distills. Raises UserError: as
    `ssld run`.
    """
    session = Session(load_recipe(str(recipe), _flat(settings, SETTINGS)), Store.default())
    remember_recipe(str(recipe))
    with session.engines.kept():
        for stage in needed_for(until):
            found = session.find(stage)
            if found.result:
                session.accept(found.result)
                continue
            with bars() as monitor:
                import_paddle()
                monitor.note(f"{stage.name}: {reason_to_run(session, stage, found).detail}")
                session.run(stage, monitor)
    return FinishedRun(session)
