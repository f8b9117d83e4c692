"""How Prefect shows and stops a stage: its progress, its artifacts, signals to a flag."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.parquet as pq
from prefect import artifacts
from prefect.exceptions import FailedRun

from data_catalog.base.files import read_json
from data_catalog.base.words import duration
from ppcls_core.report.figures import data_url, learning_curves, pair_sheet, selection_sheet
from ppcls_core.report.model import TOP5, says_something
from ppcls_core.runtime.monitor import STOPPED, SilentMonitor, figure_texts
from tasks.run.counts import shown_counts
from tasks.run.session import Session
from tasks.run.stage import Work
from tasks.run.store import Result
from tasks.stages import report

LOG_SECONDS, ARTIFACT_SECONDS = 10.0, 3.0
RATE_SECONDS = 2.0  # before which a rate means nothing
_PAIRS = {  # stage -> what draws its pairs, their key and title
    "overlap": (report.labelled_pairs, "overlap", "Pairs of labelled images"),
    "dedup": (report.duplicate_pairs, "duplicates", "Pairs"),
}
# A state's name and message, as Prefect writes them.
_FINISHED = re.compile(
    r"Finished in state (?P<name>\w+)\((?P<quote>['\"])(?P<message>.*)(?P=quote)(?:, type=\w+)?\)"
)
_INTERRUPTED = "Execution was aborted by an interrupt signal."  # says Prefect of a flow
_told = {STOPPED, _INTERRUPTED}  # messages of states that the log has told in its own words
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record says more than that a run has failed or was stopped: the run has told that,
    and why."""
    error = record.exc_info[1] if record.exc_info else record
    is_told = error is None or isinstance(error, FailedRun)
    return not is_told and record.getMessage() != f"Crash detected! {_INTERRUPTED}"


def in_plain_words(record: logging.LogRecord) -> bool:
    """A filter: of Prefect's line about a state that is a success, what the state says; no line
    about one that the log has told, nor that a flow begins, as its first stage says so."""
    if record.getMessage().startswith("Beginning flow run "):
        return False
    if found := _FINISHED.fullmatch(record.getMessage()):
        if found["message"] in _told:
            return False
        if found["name"] in ("Completed", "Cached"):
            record.msg, record.args = found["message"], ()
    return True


def _with_stage(record: logging.LogRecord) -> bool:
    """A filter: puts the name of the stage before its message."""
    record.msg, record.args = f"{getattr(record, 'task_run_name', ''):8}  {record.getMessage()}", ()
    return True


def tell_failure(logger: Logger, message: str) -> None:
    """Log the message of a state that has failed, once; Prefect would tell it of the task and of
    the flow."""
    logger.error("%s", message)
    _told.add(_quoted(message))


def is_logged(message: str) -> bool:
    """Whether the log has this message of a state."""
    return _quoted(message) in _told


def _quoted(message: str) -> str:
    """A state's message as Prefect's lines have it between quotes."""
    return repr(message)[1:-1]


# Prefect's engine raises what a flow returns as failed, and logs it again under a traceback; what a
# task returns so under the traceback of nothing, "NoneType: None".
for _name in ("prefect.flow_runs", "prefect.engine", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_is_news)
    logging.getLogger(_name).addFilter(in_plain_words)
logging.getLogger("prefect.task_runs").addFilter(_with_stage)


@dataclass
class StageMonitor:
    """The Monitor of a stage that runs under Prefect; rate-limits what it shows."""

    logger: Logger
    stops: Callable[[], bool]
    _start: float = 0.0
    _phase: tuple[int, str] = (0, "")  # total and unit
    _first: int = 0  # where this attempt began with them, and when:
    _last: int = 0
    _logged: float = 0.0
    _sent: float = 0.0
    _figures: str = ""  # those told last in this phase
    _artifact: Any = None  # UUID of the progress artifact

    @property
    def stop_requested(self) -> bool:
        """Whether the stage has to stop."""
        return self.stops()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Log a line every LOG_SECONDS; renew the artifact every ARTIFACT_SECONDS and at the
        end."""
        now = time.monotonic()
        if (total, unit) != self._phase or done < self._last:
            # What led to the first report, such as the start of processes, says nothing of a rate.
            self._phase, self._first, self._start, self._logged = (total, unit), done, now, now
            self._figures = ""
        self._last = done
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            self.logger.info(self._line(done, total, unit))
        if now - self._sent >= ARTIFACT_SECONDS or done == total:
            self._sent = now
            percent, line = 100 * done / max(total, 1), self._line(done, total, unit)
            line += self._figures and f"; {self._figures}"
            if self._artifact is None:
                self._artifact = artifacts.create_progress_artifact(percent, description=line)
            else:
                artifacts.update_progress_artifact(self._artifact, percent, description=line)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log `values`, which stand beside the progress that follows."""
        self._figures = ", ".join(figure_texts(values))
        self.logger.info("%s", self._figures)

    def note(self, message: str) -> None:
        """Log `message`."""
        self.logger.info("%s", message)

    def _line(self, done: int, total: int, unit: str) -> str:
        share = f"{done:,} of {total:,} {unit} ({100 * done / max(total, 1):.0f} %)"
        seconds, new = time.monotonic() - self._start, done - self._first
        if new <= 0 or seconds < RATE_SECONDS:
            return share
        left = duration((total - done) * seconds / new)
        return f"{share}, {new / seconds:,.1f} {unit}/s, {left} left"


def publish(session: Session, result: Result) -> None:
    """Artifacts of `result`: a table of its counts, pictures and figures where it has some. Those
    of two recipes have other keys: a key's artifacts are versions of one another."""
    recipe = session.recipe.name
    key, of = partial(_key, recipe), f" of {recipe}"
    title = f"Stage {result.stage}{of}: counts, time, throughput"
    table = [_row(session, result)]
    artifacts.create_table_artifact(table, key=key(f"{result.stage}-stage"), description=title)
    if result.stage in report.TRAINED:
        curve = report.curve(result)
        if curve.is_line:  # no point where a teacher's weights are given
            data = learning_curves([curve])
            _image(data, "svg+xml", key(f"{result.stage}-curve"), f"Learning curve{of}")
    elif result.stage in _PAIRS:
        _duplicates(session, result)
    elif result.stage == "select":
        _selection(session, result)
    elif result.stage == "evaluate":
        title = f"Accuracy on the validation images{of}"
        rows = read_json(result.path("accuracy.json"))
        if not says_something(TOP5, _finished_work(session, result).num_classes()):
            rows = [{name: v for name, v in row.items() if name != "top5"} for row in rows]
        artifacts.create_table_artifact(rows, key=key("accuracy"), description=title)
    elif result.stage == "report":
        page = result.path("report.html")
        text = f"# Report\n\n[{page}]({page.as_uri()})\n"
        title = f"The report{of}"
        artifacts.create_markdown_artifact(text, key=key("report"), description=title)


def _key(recipe: str, kind: str) -> str:
    """Prefect's keys hold small letters, digits and dashes."""
    return f"{re.sub('[^a-z0-9]+', '-', recipe.lower()).strip('-') or 'recipe'}-{kind}"


def _row(session: Session, result: Result) -> dict[str, Any]:
    row, counts = report.stage_row(result, session.done), shown_counts(result, session.done)
    rate = f"{row.images_per_second:.1f}" if row.images_per_second else ""
    return {"stage": row.name, **counts, "seconds": row.seconds, "images/s": rate}


def _duplicates(session: Session, result: Result) -> None:
    pairs_of, key, what = _PAIRS[result.stage]
    if pairs := pairs_of(_finished_work(session, result)):
        title = f"{what} nearest the rule, on both sides, of {session.recipe.name}"
        _image(pair_sheet(pairs), "jpeg", _key(session.recipe.name, key), title)


def _selection(session: Session, result: Result) -> None:
    rows = pq.read_table(result.path("selection.parquet"))
    if not len(rows):
        return
    samples, _ = report.class_samples(_finished_work(session, result), rows)
    title = f"Best and borderline images per class, of {session.recipe.name}"
    _image(selection_sheet(samples), "jpeg", _key(session.recipe.name, "selection"), title)


def _finished_work(session: Session, result: Result) -> Work:
    place = result.directory, result.key
    return Work(result.stage, session.recipe, *place, session.done, SilentMonitor())


def _image(data: bytes, kind: str, key: str, description: str) -> None:
    artifacts.create_image_artifact(
        data_url(data, f"image/{kind}"), key=key, description=description
    )
