"""report.html: the whole run on one page that needs no other file, no network and no script."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from data_catalog.base.words import counted, reason_in_words
from ppcls_core.jobs.tuning.rows import Trials
from ppcls_core.report import answer_figures, figures, tuning_figures
from ppcls_core.report.answers import Answers
from ppcls_core.report.intervals import is_noise
from ppcls_core.report.model import (
    Headline,
    Image,
    PlantedRow,
    Report,
    SearchReport,
    percent,
    printable,
    signed,
    worse,
)

MAX_PAIRS = 40  # pictures shown; the page says how many it leaves out
MAX_CLASSES = 40
PAIR_SIDE, CLASS_SIDE = 536, 140  # pixels of the embedded thumbnails
DASH = "\u2013"  # where there is no value


def render(report: Report) -> str:
    """`report` as one HTML page: text, to be written as UTF-8.

    All text of the report is escaped, all pictures are inside, and a content security policy
    forbids the browser whatever else may be in it.
    """
    finite = [row for row in report.accuracies if math.isfinite(row.top1)]
    classes, template = report.selection.classes, _template("page.html")
    curves = [curve for curve in report.curves if curve.is_line]
    return template.render(
        **_answers(report.answers),
        seconds=sum(row.seconds or 0.0 for row in report.stages),
        report=report,
        sentence=_sentence(report.headline),
        accuracy=_svg_url(figures.accuracy_chart(finite)) if finite else None,
        curves=_svg_url(figures.learning_curves(curves)) if curves else None,
        drawn=curves,
        points=[curve for curve in report.curves if curve.loss.x and not curve.is_line],
        duplicates=report.duplicates[:MAX_PAIRS],
        overlapping=report.overlap.pairs[:MAX_PAIRS] if report.overlap else (),
        selection=_svg_url(figures.selection_chart(report.selection)) if classes else None,
        classes=classes[:MAX_CLASSES],
        max_entropy=math.log(max(len(classes), 1)),
        unfilled=report.selection.unfilled[:MAX_CLASSES],
    )


def _answers(answers: Answers) -> dict[str, Any]:
    """The variables of answers.html."""
    has_answers = answers.student in answers.predicted and len(answers.ids) > 0
    fits = has_answers and len(answers.classes) <= answer_figures.MAX_MATRIX
    models = answers.calibration() if has_answers else []
    return {
        "confusion": _svg_url(answer_figures.confusion_chart(answers)) if fits else None,
        "confused": answers.confused(),
        "alone_wrong": len(answers.student_alone_wrong()),
        "by_class": answers.by_class()[:MAX_CLASSES] if has_answers else [],
        "calibration": _svg_url(answer_figures.calibration_chart(models)) if models else None,
    }


def render_search(report: SearchReport) -> str:
    """`report` of a search for duplicates as one HTML page, in the manner of `render`."""
    template, pairs = _template("search.html"), report.duplicates[:MAX_PAIRS]
    return template.render(report=report, duplicates=pairs)


def render_tuning(found: Trials, best: str, about: str) -> str:
    """The page of a hyper-parameter search, in the manner of `render`: what it found, the text of
    the file of its best settings, and a line about it."""
    is_known = found.best is not None
    return _template("tuning.html").render(
        found=found,
        best=best,
        about=about,
        names=list(found.rows[0].values) if found.rows else [],
        history=_svg_url(tuning_figures.history_chart(found.rows)) if is_known else None,
        importance=(
            _svg_url(tuning_figures.importance_chart(found.importance))
            if found.importance
            else None
        ),
        parallel=_svg_url(tuning_figures.parallel_chart(found.rows)) if is_known else None,
    )


def total(rows: Sequence[PlantedRow]) -> PlantedRow:
    """The sums over all transforms."""
    return PlantedRow("all", sum(row.found for row in rows), sum(row.total for row in rows))


def summary(headline: Headline) -> str:
    """The report's first sentence as plain text."""
    return _sentence(headline).striptags()


def _sentence(headline: Headline) -> Markup:
    """The result in plain words, its numbers marked; of what is not known it says nothing."""
    parts = [part for part in (_accuracy_clause(headline), _pool_clause(headline)) if part]
    if not parts:
        return Markup("This run has not measured anything yet.")
    text = Markup("; ").join(parts)
    doubt = headline.doubt[:1].upper() + headline.doubt[1:]
    more = Markup(" {}.").format(doubt) if doubt else ""
    return text[:1].upper() + text[1:] + Markup(".") + more


def _accuracy_clause(headline: Headline) -> Markup | None:
    if headline.top1 is None or not math.isfinite(headline.top1):
        return None
    clause = _strong("the student reaches {} top-1", f"{percent(headline.top1)}\u00a0%")
    if headline.stage:
        clause += f" after {headline.stage}"
    if headline.gain is None or not math.isfinite(headline.gain):
        return clause
    points = signed(abs(headline.gain)).lstrip("+")
    if points == "0.0":
        return clause + ", the same as when trained on labels alone"
    if loss := worse(headline.gain, headline.gain_range):
        return clause + Markup("; <strong>{}</strong>").format(loss)
    gain = _strong(", {} above the same student trained on labels alone", f"{points} points")
    noise = ", which is within noise" if is_noise(headline.gain_range) else ""
    return clause + gain + noise


def _pool_clause(headline: Headline) -> Markup | None:
    labelled, removed = headline.images_labelled, headline.duplicates_removed
    if not headline.has_pool:
        images = None if labelled is None else _counted(labelled, "labelled image")
        return images and Markup("it learnt from {} alone, without a pool").format(images)
    parts = []
    if labelled is not None:
        words = (f"pool {each} labelled" for each in ("image was", "images were"))
        parts.append(_counted(labelled, *words))
    if removed == 0:
        parts.append(Markup("none of the pool's images showed a validation image"))
    elif removed is not None:
        noun, what = "other" if parts else "pool image", "showed a validation image and"
        words = (f"{noun} {what} was removed", f"{noun}s {what} were removed")
        parts.append(_counted(removed, *words))
    return Markup(", ").join(parts) if parts else None


def _counted(number: int, noun: str, plural: str = "") -> Markup:
    """As `counted`, the number marked."""
    figure, _, words = counted(number, noun, plural).partition(" ")
    return _strong("{} " + words, figure)


def _strong(pattern: str, number: str) -> Markup:
    return Markup(pattern).format(Markup("<strong>{}</strong>").format(number))


def _svg_url(svg: bytes) -> str:
    return figures.data_url(svg, "image/svg+xml")


@cache
def _template(name: str) -> Template:
    """The template, which may name figures' and this module's sizes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= _FILTERS
    sizes = {
        "num_best": figures.NUM_BEST,
        "num_borderline": figures.NUM_BORDERLINE,
        "pair_side": PAIR_SIDE,
        "class_side": CLASS_SIDE,
    }
    return environment.get_template(name, globals={**sizes})


def _finalize(value: Any) -> Any:
    """The value of every `{{ }}` of the template: None as a dash, text made printable."""
    if value is None:
        return DASH
    return printable(value) if type(value) is str else value


def _picture(image: Image, side: int) -> str:
    return figures.data_url(figures.jpeg(figures.thumbnail(image, side)), "image/jpeg")


def _where_known(text: Callable[[float], str]) -> Callable[[float | None], str | None]:
    """The filter that writes a number as `text` does, and as a dash what is none or not finite."""
    return lambda value: None if value is None or not math.isfinite(value) else text(value)


def _interval(row: PlantedRow) -> str | None:
    low, high = row.interval()
    return f"{percent(low)} to {percent(high)}" if row.total else None


def _span(interval: Sequence[float]) -> str:
    """A 95 % interval in points, and whether it leaves the sign open."""
    noise = ", within noise" if is_noise(interval) else ""
    return f"{signed(interval[0])} to {signed(interval[1])}{noise}"


def _rate(value: float) -> str:
    """A speed to three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}\u00a0d {hours:02d}\u00a0h"
    if hours:
        return f"{hours}\u00a0h {minutes:02d}\u00a0min"
    return f"{minutes}\u00a0min {rest:02d}\u00a0s"


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "picture": _picture,
    "count": _where_known("{:,}".format),
    "counted": counted,
    "in_words": reason_in_words,
    "percent": percent,
    "points": _where_known(signed),
    "rate": _where_known(_rate),
    "interval": _interval,
    "span": _span,
    "total": total,
    "duration": _where_known(_duration),
}
