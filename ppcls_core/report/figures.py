"""The report's pictures: SVG charts, contact sheets and thumbnails, as bytes.

Equal input gives equal bytes. Drawn with matplotlib's objects, without pyplot's global state.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PillowImage

from ppcls_core.report.model import (
    AccuracyRow,
    ClassSample,
    Curve,
    DuplicatePair,
    Histogram,
    Image,
    SelectionSummary,
    Series,
    percent,
    printable,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # that it looks for fonts
_LOCK = threading.Lock()
_FONTS = "system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"
_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout on every machine
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "ssld",
    "text.parse_math": False,  # a name may hold a dollar sign
}
NUM_BEST, NUM_BORDERLINE = 6, 3  # pictures shown of a class
MAX_POINTS = 400  # of a line; more cannot be told apart on a page


BACKGROUND, INK, MUTED, RULE = "#ffffff", "#1d2024", "#5b636d", "#cfd4d9"
_STAGE_COLOURS = {  # after Okabe and Ito 2008
    "teacher": "#4a5058",
    "baseline": "#b8660a",
    "distil": "#0072b2",
    "finetune": "#00805f",
    "fix": "#a8447c",
}


def stage_colour(name: str) -> str:
    """The colour of a stage and of the model it makes, such as `distill` and `distilled`."""
    prefixes = (prefix for prefix in _STAGE_COLOURS if name.lower().startswith(prefix))
    return _STAGE_COLOURS.get(next(prefixes, ""), MUTED)


def accuracy_chart(rows: Sequence[AccuracyRow]) -> bytes:
    """Top-1 (finite) of each model with its 95 % interval, from top to bottom, as SVG. Raises
    ValueError without a row."""
    if not rows:
        raise ValueError("an accuracy chart needs at least one row")
    with drawing():
        figure = new_figure(9.6, 0.44 * len(rows) + 0.65)
        bottom = 0.5 / figure.get_figheight()
        axes = figure.add_axes((0.21, bottom, 0.76, 0.98 - bottom))
        _accuracy_axes(axes, rows)
        for position, row in enumerate(rows):
            _accuracy_row(axes, row, position)
        return as_svg(figure)


def _accuracy_axes(axes: Axes, rows: Sequence[AccuracyRow]) -> None:
    ends = [100 * end for row in rows for end in row.interval()]
    room = 0.06 * (max(ends) - min(ends)) + 0.5
    axes.set_xlim(max(0.0, min(ends) - room), min(100.0, max(ends) + room))
    axes.set_ylim(len(rows) - 0.55, -0.85)
    axes.set_yticks([])
    axes.set_xlabel("top-1 accuracy, %", color=MUTED, loc="right", labelpad=5)
    plain_axes(axes, ("bottom",))
    baseline = [row for row in rows if row.label.lower().startswith("baseline")]
    if baseline:
        axes.axvline(100 * baseline[0].top1, color=RULE, linewidth=1, zorder=0)


def _accuracy_row(axes: Axes, row: AccuracyRow, y: int) -> None:
    """One model: its name in the left margin and the value over the dot."""
    colour, x, line = stage_colour(row.label), 100 * row.top1, axes.get_yaxis_transform()
    axes.plot([100 * end for end in row.interval()], [y, y], color=colour, alpha=0.4, linewidth=3.5)
    axes.plot([x], [y], "o", color=colour, markersize=8)
    gain = "" if row.gain is None else f" ({signed(row.gain)})"
    value, name = f"{percent(row.top1, row.num_images)} %{gain}", shorten(row.label, 24)
    margin = -axes.get_position().x0 / axes.get_position().width  # the figure's left edge
    axes.text(margin, y, name, color=colour, fontweight="bold", va="bottom", transform=line)
    architecture = shorten(row.architecture, 28)
    axes.text(margin, y + 0.05, architecture, color=MUTED, fontsize=8, va="top", transform=line)
    _label(axes, (x, y), value, (INK, 7))


def _label(axes: Axes, at: tuple[float, float], text: str, style: tuple[str, float]) -> None:
    """`text` over the point `at`, kept inside the axes; `style` is (colour, distance in points)."""
    low, high = axes.get_xlim()
    place = (at[0] - low) / (high - low)
    side = "left" if place < 0.15 else "right" if place > 0.85 else "center"
    colour, above = style
    note = axes.annotate(text, at, (0, above), textcoords="offset points", ha=side, color=colour)
    note.set_bbox({"facecolor": axes.get_facecolor(), "linewidth": 0, "pad": 1})


def learning_curves(curves: Sequence[Curve]) -> bytes:
    """Validation top-1, loss and learning rate of each training stage, as SVG.

    A stage a column; all accuracies share one scale, the losses do not, because the stages
    minimise different ones. At most MAX_POINTS of each series are drawn. Raises ValueError without
    a curve.
    """
    if not curves:
        raise ValueError("learning curves need at least one curve")
    with drawing():
        figure, grid = _grid(len(curves))
        limits = _top1_limits(curves)
        for curve, panels in zip(curves, grid, strict=True):
            _stage_panels(panels, curve)
            panels[0].set_ylim(*limits)
        return as_svg(figure)


def _stage_panels(panels: Sequence[Axes], curve: Curve) -> None:
    """One stage's three series; the last accuracy and loss and the highest rate are marked."""
    accuracy, loss, rate = panels
    colour, top1 = stage_colour(curve.stage), curve.val_top1
    name = shorten(curve.stage, 16)
    accuracy.set_title(name, color=colour, loc="left", fontsize=10, fontweight="bold")
    percents = Series(top1.x, tuple(100 * y for y in top1.y))
    _panel(accuracy, percents, percents.last(), "{:.1f} %", colour)
    _panel(loss, curve.loss, curve.loss.last(), "{:.3g}", colour)
    points = [p for p in zip(curve.lr.x, curve.lr.y, strict=True) if math.isfinite(p[1])]
    peak = max(points, key=lambda point: point[1], default=None)
    _panel(rate, curve.lr, peak, "peak {:.3g}", colour)
    rate.set_yticks([])
    recorded = [axes for axes in panels if axes.lines]
    if recorded:
        recorded[-1].set_xlabel(printable(curve.x_name), color=MUTED, fontsize=8)


def _grid(num: int) -> tuple[Figure, list[list[Axes]]]:
    """The figure, and for each stage a column of axes: top-1, loss, learning rate."""
    figure = new_figure(9.6, 5.2)
    axes = figure.subplots(3, max(num, 3), squeeze=False, height_ratios=[3, 2, 1.3])
    figure.subplots_adjust(0.078, 0.09, 0.985, 0.95, wspace=0.3, hspace=0.3)
    for unused in axes[:, num:].flat:
        unused.remove()
    for row, name in zip(axes[:, 0], _PANELS, strict=True):
        middle = row.get_position().y0 + row.get_position().height / 2
        figure.text(0.012, middle, name, color=MUTED, rotation=90, va="center", ha="center")
    return figure, [list(column) for column in axes.T[:num]]


_PANELS = ("validation top-1, %", "training loss", "learning rate")


def _top1_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    values = [100 * y for curve in curves for y in curve.val_top1.y if math.isfinite(y)]
    if not values:
        return 0.0, 100.0
    span = max(values) - min(values)
    return max(0.0, min(values) - 0.1 * span - 1), max(values) + 0.3 * span + 3


def _panel(
    axes: Axes, series: Series, mark: tuple[float, float] | None, text: str, colour: str
) -> None:
    """One series with a dot at its mark, whose y stands, in the format `text`, above at the right.

    The mark is None where no point is finite. Of a single point there is the dot.
    """
    plain_axes(axes, ("left", "bottom") if mark else ())
    if mark is None:
        return _not_recorded(axes)
    thin = _thin(series)
    value = axes.text(1, 1, text.format(mark[1]), color=INK, fontsize=8.5, ha="right", va="top")
    value.set_transform(axes.transAxes)
    axes.plot(thin.x, thin.y, color=colour, linewidth=1.5, solid_joinstyle="round")
    axes.plot(*mark, "o", color=colour, markersize=4, clip_on=False)
    axes.locator_params(nbins=3)
    axes.locator_params(axis="x", integer=True)
    if len(thin.x) == 1:
        axes.set_xticks(thin.x)
    axes.margins(x=0.03)
    finite = [y for y in thin.y if math.isfinite(y)]
    bottom, top = min(0.0, *finite), max(finite)
    axes.set_ylim(bottom, top + 0.3 * (top - bottom or 1))  # room for the value, of a flat line too
    return None


def _not_recorded(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="")
    axes.text(0.0, 0.5, "not recorded", color=MUTED, fontsize=8, transform=axes.transAxes)


def selection_chart(selection: SelectionSummary) -> bytes:
    """Images of each class, scores of what was selected, entropies over the pool, as SVG. Raises
    ValueError without a class."""
    if not selection.classes:
        raise ValueError("a selection chart needs at least one class")
    with drawing():
        figure = new_figure(9.6, 2.5)
        panels = figure.subplots(1, 3).flat
        figure.subplots_adjust(0.05, 0.2, 0.985, 0.87, wspace=0.22)
        titles = ("images of each class", "scores of what was selected", "entropy over the pool")
        units = ("classes, richest first", "probability of the class", "nats")
        for axes, title, unit in zip(panels, titles, units, strict=True):
            axes.set_title(title, color=INK, loc="left", fontsize=9)
            axes.set_xlabel(unit, color=MUTED, fontsize=8)
        _class_panel(panels[0], selection)
        _histogram_panel(panels[1], selection.scores)
        _histogram_panel(panels[2], selection.entropies)
        return as_svg(figure)


def _class_panel(axes: Axes, selection: SelectionSummary) -> None:
    """A step a class, in descending order, under the line of what was wanted."""
    counts = sorted((sample.num_selected for sample in selection.classes), reverse=True)
    wanted = max(sample.wanted for sample in selection.classes)
    plain_axes(axes, ("left", "bottom"))
    axes.stairs(counts, range(len(counts) + 1), fill=True, color=stage_colour("distil"), alpha=0.75)
    # No line where it would crush what there is; at random, nothing is wanted of a class.
    if wanted <= 3 * max(counts[0], 1) and selection.policy != "random":
        axes.axhline(wanted, color=MUTED, linewidth=1)
        axes.annotate(
            f"wanted: {wanted:,}",
            (1, wanted),
            (0, 3),
            ha="right",
            color=INK,
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlim(0, len(counts))
    axes.set_ylim(0, 1.2 * max(counts[0], 1))
    axes.locator_params(integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _histogram_panel(axes: Axes, histogram: Histogram | None) -> None:
    """Bars without a scale of their own, over the values."""
    known = histogram is not None and sum(histogram.counts) > 0
    plain_axes(axes, ("left", "bottom") if known else ())
    if histogram is None or not known:
        return _not_recorded(axes)
    shares = [100 * count / sum(histogram.counts) for count in histogram.counts]
    axes.stairs(shares, histogram.edges, fill=True, color=stage_colour("distil"), alpha=0.75)
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.set_ylim(0, 1.1 * max(shares))
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.locator_params(axis="y", nbins=4)
    return None


def _thin(series: Series) -> Series:
    """At most MAX_POINTS of the series, evenly spread, first and last among them."""
    keep = np.unique(np.linspace(0, len(series.x) - 1, MAX_POINTS).round().astype(int))
    return Series(tuple(series.x[i] for i in keep), tuple(series.y[i] for i in keep))


def plain_axes(axes: Axes, spines: tuple[str, ...]) -> None:
    """Axes without a box: only the `spines` named, in quiet colours."""
    axes.set_facecolor(BACKGROUND)
    for name, spine in axes.spines.items():
        spine.set_visible(name in spines)
        spine.set_color(RULE)
    axes.tick_params(colors=MUTED, color=RULE, labelsize=8, length=3)


def shorten(text: str, length: int) -> str:
    """`text` made printable, its middle left out where it is longer than `length`."""
    text = printable(text)
    head = (length - 1) // 2
    return text if len(text) <= length else f"{text[:head]}\u2026{text[head + 1 - length :]}"


@contextmanager
def drawing(texts: Iterable[str] = ()) -> Iterator[None]:
    """matplotlib under this module's settings, for one thread at a time: its settings and its font
    cache belong to the whole process. `texts`: those that become pixels, for which fonts are sought
    among the installed ones where DejaVu Sans has not all characters."""
    import matplotlib

    with _LOCK, matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        characters = frozenset("".join(texts))
        matplotlib.rcParams["font.family"] = [*_SETTINGS["font.family"], *_families(characters)]
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        yield


@lru_cache(64)
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    """Families of installed fonts that have those of the characters that DejaVu Sans lacks, as far
    as there are any; a browser finds them by itself, so that an SVG needs none."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font_manager.findfont(_SETTINGS["font.family"][0]))
    missing = {c for c in characters if c.isprintable() and not known.get_char_index(ord(c))}
    found: list[str] = []
    paths = font_manager.findSystemFonts() if missing else ()
    for path in sorted(paths, key=lambda path: ("Regular" not in path, path)):
        try:
            font = FT2Font(path)
            has = {c for c in missing if font.get_char_index(ord(c))}
            if has:
                font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError, NotImplementedError, ValueError):
            continue  # no font that matplotlib can draw
        if has:
            found.append(font.family_name)
            missing -= has
        if not missing:
            break
    return tuple(found)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=100, facecolor=BACKGROUND)


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace(b"'DejaVu Sans'", _FONTS.encode())


def pair_sheet(pairs: Sequence[DuplicatePair]) -> bytes:
    """Contact sheet of pairs, each pool image beside the validation image, as JPEG. Raises
    ValueError without a pair."""
    if not pairs:
        raise ValueError("a pair sheet needs at least one pair")
    rows = []
    for pair in pairs:
        found = f"{pair.channel}, score {pair.score:.3g}"
        found += f", {pair.inliers} inliers" if pair.inliers else ""
        found += "" if pair.planted is None else f", planted: {pair.planted}"
        verb = "does not show" if pair.kind == "refused" else "shows"
        lines = (f"{shorten(pair.pool_id, 24)}  {verb}  {shorten(pair.val_id, 24)}", found)
        rows.append(_Row(lines, (pair.picture,)))
    return _sheet(rows, (3, 1), (330, 163))


def selection_sheet(samples: Sequence[ClassSample]) -> bytes:
    """Contact sheet of the selection, a class a row: best images, gap, borderline ones; as JPEG.
    Raises ValueError without a class."""
    if not samples:
        raise ValueError("a selection sheet needs at least one class")
    rows = []
    for sample in samples:
        low = "" if sample.lowest_score is None else f", lowest score {sample.lowest_score:.3f}"
        text = f"{sample.num_selected:,} of {sample.wanted:,} wanted{low}"
        gap = (None,) * (NUM_BEST - len(sample.best) + 1)
        images = (*sample.best[:NUM_BEST], *gap, *sample.borderline[:NUM_BORDERLINE])
        rows.append(_Row((shorten(sample.name, 60), text), images))
    return _sheet(rows, (1, NUM_BEST + 1 + NUM_BORDERLINE), (112, 112))


@dataclass(frozen=True)
class _Row:
    """Two lines of text over a row of pictures; None leaves a tile empty."""

    lines: tuple[str, str]
    images: tuple[Image | None, ...]


def _sheet(rows: Sequence[_Row], layout: tuple[int, int], tile: tuple[int, int]) -> bytes:
    """The rows in a grid, as JPEG; `layout`: columns of rows, tiles a row; `tile`: its width and
    height."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    columns, tiles = layout
    gap, head, margin = 4, 38, 16
    width, height = tiles * (tile[0] + gap) + margin, tile[1] + head + margin
    down = math.ceil(len(rows) / columns)
    canvas = np.full((down * height + margin, columns * width + margin, 3), 255, np.uint8)
    texts = [printable(text) for row in rows for text in row.lines]
    with drawing(texts):
        figure = new_figure(canvas.shape[1] / 100, canvas.shape[0] / 100)
        for number, row in enumerate(rows):
            top, left = margin + number // columns * height, margin + number % columns * width
            for place, image in enumerate(row.images):
                _paste(canvas, image, (top + head, left + place * (tile[0] + gap)), tile)
            for line, (text, colour) in enumerate(zip(row.lines, (INK, MUTED), strict=True)):
                at = (left / canvas.shape[1], 1 - (top + 12 + 17 * line) / canvas.shape[0])
                figure.text(*at, printable(text), color=colour, fontsize=8)
        figure.figimage(canvas)
        agg = FigureCanvasAgg(figure)
        agg.draw()
        return jpeg(np.asarray(agg.buffer_rgba())[..., :3], 85)


def _paste(
    canvas: np.ndarray, image: Image | None, at: tuple[int, int], tile: tuple[int, int]
) -> None:
    """`image` in the middle of a tile (width, height) of `canvas`, whose top left is `at` (y, x),
    on light grey."""
    if image is None:
        return
    (top, left), (wide, high) = at, tile
    canvas[top : top + high, left : left + wide] = 244
    height, width = image.shape[:2]
    small = thumbnail(image, int(max(height, width) * min(wide / width, high / height)))
    height, width = small.shape[:2]
    y, x = top + (high - height) // 2, left + (wide - width) // 2
    canvas[y : y + height, x : x + width] = small


def thumbnail(image: Image, side: int) -> Image:
    """`image` with its longer side reduced to `side` pixels, proportions kept; never enlarged."""
    small = PillowImage.fromarray(image)
    small.thumbnail((side, side), PillowImage.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(small)


def jpeg(image: Image, quality: int = 80) -> bytes:
    """`image` as a JPEG file."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def data_url(data: bytes, mime: str) -> str:
    """`data` as a `data:` address, which a page or a Prefect artifact shows without a file."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
