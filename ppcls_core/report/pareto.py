"""A picture of what accuracy costs: published models by series, those that none beats named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.files import atomic_path
from data_catalog.published import PublishedWeights, published_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "mparams": "parameters, millions",
    "gflops": "operations an image, 10⁹",
    "v100_fp32_ms": "latency on a V100, fp32, ms",
    **{
        f"t4_{dtype}{batch}_ms": f"latency on a T4, {dtype}, batch of {size}, ms"
        for dtype in ("fp16", "fp32")
        for batch, size in (("", 1), ("_bs4", 4), ("_bs8", 8))
    },
    "sd855_ms": "latency on a Snapdragon 855, one core, ms",
}
_LIST: dict[str, Any] = {"ha": "right", "va": "bottom", "multialignment": "left"}
_FRONT = "#333333"
_MOST_NAMES = 20  # that find room in a panel


def pareto_front(rows: Sequence[PublishedWeights], cost: str) -> list[PublishedWeights]:
    """The rows to which no other is at once as cheap and more accurate, or cheaper and as accurate.

    Cheapest first. Rows without the figure `cost`, one of COSTS, are left out.
    """
    known = _known(rows, cost)
    front: list[PublishedWeights] = []
    for row in sorted(known, key=lambda row: (getattr(row, cost), -(row.top1 or 0))):
        if not front or (row.top1 or 0) > (front[-1].top1 or 0):
            front.append(row)
    return front


def _known(rows: Sequence[PublishedWeights], cost: str) -> list[PublishedWeights]:
    return [row for row in rows if row.top1 is not None and getattr(row, cost) is not None]


def draw_pareto(path: Path, rows: Sequence[PublishedWeights], costs: Sequence[str]) -> None:
    """Draw top-1 accuracy against each of `costs`, a panel each and at most four beside one
    another, to `path` (.png, .svg or .pdf). Raises ValueError: a suffix that matplotlib does not
    write."""
    from matplotlib.figure import Figure

    num_columns = min(len(costs), 4)
    num_rows = -(-len(costs) // num_columns)
    figure = Figure(figsize=(6.5 * num_columns, 6.5 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes, cost in zip(panels.flat, costs, strict=False):
        _draw_panel(axes, rows, cost)
    for axes in panels[:, 0]:
        axes.set_ylabel("top-1 on ImageNet1k, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=12, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=90)


def _draw_panel(axes: Axes, rows: Sequence[PublishedWeights], cost: str) -> None:
    from matplotlib.ticker import LogFormatter

    for number, series in enumerate(
        dict.fromkeys(row.series for row in published_weights().values())
    ):
        chosen = [row for row in _known(rows, cost) if row.series == series]
        if any(row.series == series for row in rows):
            axes.scatter(*_places(chosen, cost), s=20, color=f"C{number}", label=series)
    distilled = [row for row in _known(rows, cost) if "_ssld" in row.name]
    axes.scatter(
        *_places(distilled, cost), s=70, facecolors="none", edgecolors=_FRONT, label="SSLD"
    )
    front = pareto_front(rows, cost)
    axes.plot(*_places(front, cost), color=_FRONT, linewidth=1, zorder=0, label="beaten by none")
    every = sorted(_known(rows, cost), key=lambda row: getattr(row, cost))
    _name(axes, every if len(every) <= _MOST_NAMES else front, cost)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # where there are less than two powers of ten
    axes.set_xlabel(COSTS[cost])
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _places(rows: Sequence[PublishedWeights], cost: str) -> tuple[list[float], list[float]]:
    return [getattr(row, cost) for row in rows], [100 * (row.top1 or 0) for row in rows]


def _name(axes: Axes, rows: Sequence[PublishedWeights], cost: str) -> None:
    """A number at each point, and the list of names in the empty lower right."""
    for number, place in enumerate(zip(*_places(rows, cost), strict=True), 1):
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8}
        axes.annotate(str(number), place, (-4, 4), **style)
    names = [f"{number:2d}  {row.name}" for number, row in enumerate(rows, 1)]
    axes.text(0.99, 0.02, "\n".join(names), transform=axes.transAxes, fontsize=7.5, **_LIST)
