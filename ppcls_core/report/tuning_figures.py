"""The charts of a hyper-parameter search, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ppcls_core.jobs.tuning.rows import TrialRow
from ppcls_core.report.figures import (
    INK,
    MUTED,
    RULE,
    as_svg,
    drawing,
    new_figure,
    plain_axes,
    shorten,
    stage_colour,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR, _BEST = stage_colour("distil"), stage_colour("baseline")


def history_chart(rows: Sequence[TrialRow]) -> bytes:
    """Top-1 of each complete trial in order, the last of each pruned one, and the best so far.
    Raises ValueError without a complete trial."""
    complete = [(row.number, 100 * row.mean) for row in rows if row.mean is not None]
    pruned = [(row.number, 100 * row.curve[-1]) for row in rows if row.state == "pruned"]
    if not complete:
        raise ValueError("a history needs a complete trial")
    with drawing():
        figure = new_figure(9.6, 3.4)
        axes = figure.add_axes((0.07, 0.15, 0.9, 0.75))
        plain_axes(axes, ("left", "bottom"))
        numbers, values = zip(*complete, strict=True)
        axes.plot(numbers, values, "o", color=_COLOUR, markersize=5, label="complete")
        if pruned:
            axes.plot(*zip(*pruned, strict=True), "x", color=MUTED, markersize=5, label="pruned")
        best = list(itertools.accumulate(values, max))
        axes.step(numbers, best, where="post", color=_BEST, linewidth=1.5, label="best so far")
        axes.set_xlabel("trial", color=MUTED, loc="right")
        axes.set_ylabel("validation top-1, %", color=MUTED)
        axes.locator_params(axis="x", integer=True)
        axes.legend(
            frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=3
        )
        return as_svg(figure)


def importance_chart(importance: Mapping[str, float]) -> bytes:
    """The share of each setting in the differences of top-1, the largest first. Raises ValueError
    without a setting."""
    if not importance:
        raise ValueError("an importance chart needs a setting")
    shares = sorted(importance.items(), key=lambda item: item[1])
    with drawing():
        figure = new_figure(9.6, 0.36 * len(shares) + 0.6)
        bottom = 0.42 / figure.get_figheight()
        axes = figure.add_axes((0.3, bottom, 0.62, 0.98 - bottom))
        plain_axes(axes, ("bottom",))
        names = [shorten(name, 36) for name, _ in shares]
        bars = axes.barh(names, [100 * share for _, share in shares], color=_COLOUR, height=0.6)
        axes.bar_label(bars, fmt="%.0f %%", padding=4, color=INK)
        axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
        axes.set_xlim(0, 108)
        axes.set_xlabel("share of the differences in top-1, %", color=MUTED, loc="right")
        return as_svg(figure)


def parallel_chart(rows: Sequence[TrialRow]) -> bytes:
    """A line a complete trial through its values, the best trials darkest and on top, the worst
    still to be seen; the last axis is top-1. Raises ValueError without a complete trial."""
    complete = sorted((r for r in rows if r.mean is not None), key=lambda row: row.mean or 0.0)
    if not complete:
        raise ValueError("parallel coordinates need a complete trial")
    names = list(complete[0].values)
    scales = {name: _scale([row.values[name] for row in complete]) for name in names}
    low, high = 100 * (complete[0].mean or 0), 100 * (complete[-1].mean or 0)
    with drawing():
        figure = new_figure(9.6, 4)
        axes = figure.add_axes((0.1, 0.12, 0.82, 0.84))
        plain_axes(axes, ())
        for rank, row in enumerate(complete, 1):
            share = (100 * (row.mean or 0) - low) / (high - low) if high > low else 1.0
            heights = [*(scales[name][row.values[name]] for name in names), share]
            is_best = rank == len(complete)
            colour, width = (_BEST, 2) if is_best else (_COLOUR, 1)
            alpha = max(0.25, share**3)
            axes.plot(range(len(heights)), heights, color=colour, linewidth=width, alpha=alpha)
        ends = {f"{low:.1f}": 0.0, f"{high:.1f}": 1.0} if high > low else {f"{high:.1f}": 1.0}
        for place, scale in enumerate([*scales.values(), ends]):
            _upright(axes, place, scale)
        axes.set_xticks(range(len(names) + 1), [*(shorten(n, 30) for n in names), "top-1, %"])
        axes.set_yticks([])
        axes.set_ylim(-0.05, 1.05)
        return as_svg(figure)


def _upright(axes: Axes, place: int, scale: Mapping[str, float]) -> None:
    axes.axvline(place, color=RULE, linewidth=1, zorder=0)
    shown = list(scale.items())
    step = max(1, -(-len(shown) // 12))  # of a range there are as many values as trials
    for text, height in shown[::step]:
        note = axes.text(place, height, shorten(text, 18), color=INK, fontsize=8, ha="center")
        note.set_bbox({"facecolor": axes.get_facecolor(), "linewidth": 0, "pad": 1, "alpha": 0.8})


def _scale(values: Sequence[str]) -> dict[str, float]:
    """The height of each value between 0 and 1, evenly spaced, numbers in their order."""
    try:
        order = sorted(set(values), key=float)
    except ValueError:
        order = sorted(set(values))
    return {value: place / max(len(order) - 1, 1) for place, value in enumerate(order)}
