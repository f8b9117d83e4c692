"""`ssld compare`: two finished runs side by side: settings, data, metrics, cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.table import Table

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.recipes import newest_result, recipe_path
from ppcls_core.cli.common import console, log
from ppcls_core.report.answers import difference
from ppcls_core.report.intervals import is_noise
from tasks.dag import STAGES
from tasks.recipe import DISTILLED, STUDENTS
from tasks.run.reasons import flat
from tasks.run.store import RUN, Result, Store

# pyright: reportAttributeAccessIssue=false

NUM_KNOWN = 10  # reports that a message names, the newest
Run = Annotated[
    str,
    typer.Argument(
        help="A recipe, by its name or file: its last run; or a report's folder, or how the name "
        "of that begins."
    ),
]

Second = Annotated[
    str | None,
    typer.Argument(help="The same of the other run; without it the first one's recipe's reports."),
]


@dataclass(frozen=True)
class Finished:
    """A run that has its report: what `run.json` says, and where its results lie."""

    record: Mapping[str, Any]
    store: Store

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.record["settings"]["name"]

    @property
    def name(self) -> str:
        """The recipe's name and when the report was written."""
        return f"{self.recipe}, {self.record['written']}"

    def result(self, stage: str) -> Result | None:
        """The result of a stage, if it is still there."""
        return self.store.load(stage, self.record["stages"][stage]["key"])

    def answers(self, model: str) -> pa.Table | None:
        """PREDICTIONS of a model, if they are still there."""
        result = self.result("evaluate")
        path = result and result.path("predictions.parquet")
        if not path or not path.is_file():
            return None
        return pq.read_table(path, filters=pc.field("model") == model)


def compare(first: Run, second: Second = None) -> None:
    """Show two finished runs side by side: settings that differ, data, accuracies, cost.

    A recipe stands for its last finished run. A gain has the paired 95 % interval of the images
    that both runs were validated on.

    ssld compare demo            # lists the reports of demo
    ssld compare demo mine.yaml
    ssld compare demo 997d779e988d
    """
    store = Store.default()
    if second is None:
        listed = reports_listed(store, find_run(store, first).recipe)
        return log(f"compare two, of this recipe or of another: ssld compare KEY KEY{listed}")
    runs = [find_run(store, given) for given in (first, second)]
    if runs[0].record == runs[1].record:
        raise UserError(
            f"{first} and {second} are one and the same report; give another one for one of them"
            f"{reports_listed(store, runs[0].recipe)}"
        )
    for letter, run in zip("AB", runs, strict=True):
        log(f"{letter}: {run.name}")
    _print("settings that differ", settings_rows(*runs), "all settings are equal")
    _print("images", count_rows(*runs), "")
    _print("top-1, %", accuracy_rows(*runs), "no model was measured in both runs", "B less A")
    return _print("seconds", cost_rows(*runs), "")


def find_run(store: Store, given: str) -> Finished:
    """The run that `given` names. Raises UserError: there is none, with those that there are."""
    folder = Path(given)
    if not (folder / RUN).is_file():
        folder = _named(store, given)
    record = read_json(folder / RUN)
    if not isinstance(record, dict):
        raise UserError(f"{folder / RUN}: cannot be read; run `ssld run RECIPE --only report`")
    return Finished(record, store)


def reports_listed(store: Store, recipe: str) -> str:
    """The reports of the recipe of this name, one a line, to be named by their first letters."""

    def is_of_recipe(report: Result) -> bool:
        record = read_json(report.path(RUN))
        return isinstance(record, dict) and record["settings"]["name"] == recipe

    found = _listed(store, list(filter(is_of_recipe, _newest_first(store))))
    return found or f"; {store.root} has no report of {recipe}"


def _newest_first(store: Store) -> list[Result]:
    return sorted(store.results("report"), key=lambda r: r.record["finished"], reverse=True)


def _named(store: Store, given: str) -> Path:
    reports = _newest_first(store)
    # The whole key, of which the folder's name is the beginning, stands in manifests.
    begins = [report for report in reports if report.key.startswith(given.lower())]
    if len(begins) == 1:
        return begins[0].directory
    try:
        if folder := newest_result(given, "report", log):
            return folder
        raise UserError(f"{recipe_path(given)}: is no recipe of the pipeline")
    except UserError as error:
        but = f"so begin {len(begins)} reports" if begins else "nor does a report's folder begin so"
        raise UserError(f"{error}; {but}{_listed(store, begins or reports)}") from None


def _listed(store: Store, reports: Sequence[Result]) -> str:
    """A line for each of the first reports: how to name it, its recipe and date, and what it has
    that not all reports listed of the recipe have."""
    records = {report.key: read_json(report.path(RUN)) for report in reports[:NUM_KNOWN]}
    runs = {key: Finished(record, store) for key, record in records.items() if record}
    if not runs:
        return ""
    lines = []
    for key, run in runs.items():
        alike = [r for r in runs.values() if r.recipe == run.recipe]
        lines.append(f"  {key[:12]}  {', '.join([run.name, *_differences(run, alike)])}")
    which = "reports, the newest first"
    if len(reports) != len(lines):
        which = f"reports, the newest {len(lines)} of {len(reports)}"
    elif len(lines) == 1:
        which = "the only report"
    return "\n".join([f"; {which}:", *lines])


def _differences(run: Finished, others: Sequence[Finished]) -> list[str]:
    """Those settings of a run that not all of `others` have, or else the first stage whose result
    they do not: of the same settings then, but of other data or code."""
    settings = [flat(other.record["settings"]) for other in others]
    own = flat(run.record["settings"])
    names = dict.fromkeys(name for each in settings for name in each)
    found = [
        f"{name}={_shown(own.get(name))}"
        for name in names
        if any(each.get(name) != own.get(name) for each in settings)
    ]
    keys = {stage: one["key"] for stage, one in run.record["stages"].items()}
    stages = (
        f"another {stage}"
        for stage, key in keys.items()
        if any(other.record["stages"][stage]["key"] != key for other in others)
    )
    return found or [*islice(stages, 1)]


def settings_rows(a: Finished, b: Finished) -> Iterator[tuple[str, ...]]:
    """(setting, of A, of B, "") of those that differ; one that is not there is a dash."""
    one, other = flat(a.record["settings"]), flat(b.record["settings"])
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield name, *(_shown(each.get(name)) for each in (one, other)), ""


def _shown(value: Any) -> str:
    text = "\u2013" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}\u2026"


def count_rows(a: Finished, b: Finished) -> Iterator[tuple[str, ...]]:
    """(what, in A, in B, remark) of the data sets, the duplicates and the selection."""
    wanted = {
        "data": ("train", "val", "pool"),
        "overlap": ("out",),
        "dedup": ("duplicates",),
        "label": ("out",),
        "select": ("kept",),
    }
    prints = [{s: r.digest for s in ("data",) if (r := run.result(s))} for run in (a, b)]
    same = prints[0] == prints[1] and prints[0]
    for stage, names in wanted.items():
        one, other = (run.record["stages"][stage]["counts"] for run in (a, b))
        for name in names:
            numbers = [f"{counts.get(name, 0):,}" for counts in (one, other)]
            remark = "the same images" if same and stage == "data" else ""
            yield f"{stage}: {name}", *numbers, remark


def accuracy_rows(a: Finished, b: Finished) -> Iterator[tuple[str, ...]]:
    """(model, of A, of B, B less A with its paired interval) of each model and the exported one."""
    for model in ("teacher", *STUDENTS):
        yield from _accuracy(model, (a, model), (b, model))
    if {a.record["exported"], b.record["exported"]} <= {*DISTILLED}:
        pair = (a, a.record["exported"]), (b, b.record["exported"])
        yield from _accuracy(f"exported ({pair[0][1]}; {pair[1][1]})", *pair)


def _accuracy(
    title: str, one: tuple[Finished, str], other: tuple[Finished, str]
) -> Iterator[tuple[str, ...]]:
    first, second = (run.answers(model) for run, model in (one, other))
    if first is None or second is None or not (len(first) and len(second)):
        return
    shares = [f"{100 * pc.mean(pc.less(each['rank'], 1)).as_py():.1f}" for each in (first, second)]
    common = pc.sum(pc.is_in(first["image_id"], second["image_id"])).as_py()
    if not common:
        yield title, *shares, "no image in common"
        return
    points, interval = difference(second, first)
    keys = {run.record["stages"][model]["key"] for run, model in (one, other)}
    if len(keys) == 1 and first["image_id"].equals(second["image_id"]) and not points:
        yield title, *shares, "the same result"
        return
    if all(first[name].equals(second[name]) for name in ("image_id", "rank")):
        yield title, *shares, "right and wrong on the same images"
        return
    noise = ", within noise" if is_noise(interval) else ""
    on = "" if common == len(first) == len(second) else f", of the {common:,} images in common"
    text = f"{points:+.1f} ({interval[0]:+.1f} to {interval[1]:+.1f}){noise}{on}"
    yield title, *shares, text


def cost_rows(a: Finished, b: Finished) -> Iterator[tuple[str, ...]]:
    """(stage, seconds in A, in B, remark) of each stage, and their sum."""
    one, other = (run.record["stages"] for run in (a, b))
    for stage in filter(one.__contains__, STAGES):  # not in the order in which A ended them
        same = "one and the same result" if one[stage]["key"] == other[stage]["key"] else ""
        yield stage, *(f"{stages[stage]['seconds']:,.1f}" for stages in (one, other)), same
    sums = (sum(each["seconds"] for each in stages.values()) for stages in (one, other))
    yield "all", *(f"{total:,.1f}" for total in sums), ""


def _print(title: str, rows: Iterator[tuple[str, ...]], nothing: str, difference: str = "") -> None:
    table = Table(title, box=None, pad_edge=False, header_style="bold")
    table.add_column("A", justify="right", overflow="fold")
    table.add_column("B", justify="right", overflow="fold")
    table.add_column(difference)
    found = list(rows)
    for row in found:
        table.add_row(*row)
    log("")
    if found:
        console.print(table)
    elif nothing:
        log(nothing)
