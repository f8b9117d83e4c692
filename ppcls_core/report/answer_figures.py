"""Charts of the models' answers as SVG: confusion between classes, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppcls_core.report.answers import NUM_BINS, Answers, Reliability
from ppcls_core.report.figures import (
    BACKGROUND,
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

MAX_MATRIX = 25  # classes of which a matrix can be read


def confusion_chart(answers: Answers) -> bytes:
    """The student's answers by class, a row a class, shaded by the share of the class's images.
    Raises ValueError: no class, or more than MAX_MATRIX."""
    num = len(answers.classes)
    if not 0 < num <= MAX_MATRIX:
        raise ValueError(f"a confusion chart needs 1 to {MAX_MATRIX} classes, got {num}")
    found = answers.matrix(answers.student)
    shares = found / np.maximum(found.sum(1, keepdims=True), 1)
    with drawing():
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("", [BACKGROUND, stage_colour("distil")])
        names = [shorten(name, 22) for name in answers.classes]
        # In inches, since words keep their size whatever the number of classes is: those over the
        # columns are slanted, and reach up and beyond the last one.
        longest, width, cells = max(map(len, names)), 9.6, 0.26 * max(num, 4)
        left, bottom, top = 1.92, 0.28, 0.25 + 0.04 * longest
        right = max(0.2, 0.055 * longest - 3.5 / num)
        height = bottom + cells + top
        figure = new_figure(width, height)
        axes = figure.add_axes(
            (left / width, bottom / height, 1 - (left + right) / width, cells / height)
        )
        axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=RULE, linewidth=0.5)
        for row, column in zip(*np.nonzero(found), strict=True):
            colour = BACKGROUND if shares[row, column] > 0.5 else INK
            place = (column + 0.5, row + 0.5)
            axes.text(*place, f"{found[row, column]:,}", color=colour, ha="center", va="center")
        plain_axes(axes, ())
        axes.invert_yaxis()
        axes.xaxis.tick_top()
        axes.set_xticks(np.arange(num) + 0.5, names, rotation=35, ha="left", color=INK)
        axes.set_yticks(np.arange(num) + 0.5, names, color=INK)
        axes.tick_params(length=0)
        axes.set_xlabel("what the student says", color=MUTED, fontsize=8, loc="right")
        return as_svg(figure)


def calibration_chart(models: Sequence[Reliability]) -> bytes:
    """Accuracy by confidence of each model, a panel each, beside the line of a calibrated one.
    Raises ValueError without a model."""
    if not models:
        raise ValueError("a calibration chart needs at least one model")
    with drawing():
        figure = new_figure(9.6, 2.9)
        panels = figure.subplots(1, max(len(models), 3), squeeze=False, sharey=True)[0]
        figure.subplots_adjust(0.07, 0.17, 0.985, 0.88, wspace=0.12)
        for unused in panels[len(models) :]:
            unused.remove()
        for axes, model in zip(panels, models, strict=False):
            plain_axes(axes, ("left", "bottom"))
            colour = stage_colour(model.model)
            title = f"{shorten(model.model, 16)}: error {100 * model.error:.1f} points"
            axes.set_title(title, color=colour, loc="left", fontsize=10, fontweight="bold")
            axes.plot([0, 100], [0, 100], color=RULE, linewidth=1, zorder=0)
            seen = model.number > 0
            area = 12 + 240 * model.number[seen] / max(model.number.sum(), 1)
            at = (100 * model.confidence[seen], 100 * model.accuracy[seen])
            axes.plot(*at, color=colour, linewidth=1.2, alpha=0.5)
            axes.scatter(*at, s=area, color=colour, linewidth=0, clip_on=False, zorder=3)
            axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 200 // NUM_BINS))
            axes.set_xlabel("probability of the answer, %", color=MUTED, fontsize=8)
        panels[0].set_ylabel("right, %", color=MUTED, fontsize=8)
        return as_svg(figure)
