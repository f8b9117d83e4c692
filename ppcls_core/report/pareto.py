"""A picture of what accuracy costs: published models, those that none beats marked and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.files import atomic_path
from data_catalog.published import PublishedWeights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "mparams": "parameters, millions",
    "gflops": "operations an image, 10⁹",
    "v100_fp32_ms": "latency on a V100, fp32, ms",
    "t4_fp16_ms": "latency on a T4, fp16, ms",
    "t4_fp32_ms": "latency on a T4, fp32, ms",
    "sd855_ms": "latency on a Snapdragon 855, one core, ms",
}
_LIST: dict[str, Any] = {"ha": "right", "va": "bottom", "multialignment": "left"}
_PUBLISHED, _FRONT, _DISTILLED = "#9aa3ad", "#0072b2", "#d55e00"


def pareto_front(rows: Sequence[PublishedWeights], cost: str) -> list[PublishedWeights]:
    """The rows to which no other is at once as cheap and more accurate, or cheaper and as accurate.

    Cheapest first. Rows without the figure `cost`, one of COSTS, are left out.
    """
    known = [row for row in rows if getattr(row, cost) is not None]
    front: list[PublishedWeights] = []
    for row in sorted(known, key=lambda row: (getattr(row, cost), -row.top1)):
        if not front or row.top1 > front[-1].top1:
            front.append(row)
    return front


def draw_pareto(path: Path, rows: Sequence[PublishedWeights], costs: Sequence[str]) -> None:
    """Draw top-1 accuracy against each of `costs`, a panel each, to `path` (.png, .svg or .pdf).
    Raises ValueError: a suffix that matplotlib does not write."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(costs), 6.5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        _draw_panel(axes, rows, cost)
    panels[0].set_ylabel("top-1 on ImageNet1k, %")
    panels[0].legend(loc="upper left", frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=130)


def _draw_panel(axes: Axes, rows: Sequence[PublishedWeights], cost: str) -> None:
    def place(chosen: Sequence[PublishedWeights]) -> tuple[list[float], list[float]]:
        return [getattr(row, cost) for row in chosen], [100 * row.top1 for row in chosen]

    known = [row for row in rows if getattr(row, cost) is not None]
    distilled = [row for row in known if "_ssld" in row.name]
    front = pareto_front(rows, cost)
    axes.scatter(*place(known), s=14, color=_PUBLISHED, label="published")
    axes.plot(*place(front), color=_FRONT, linewidth=1.2, label="beaten by none")
    axes.scatter(*place(distilled), s=22, color=_DISTILLED, zorder=3, label="distilled (SSLD)")
    _name(axes, front, cost)
    axes.set_xscale("log")
    axes.set_xlabel(COSTS[cost])
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Axes, front: Sequence[PublishedWeights], cost: str) -> None:
    """A number at each point of the front, and the list of names in the empty lower right."""
    for number, row in enumerate(front, 1):
        axes.annotate(
            str(number),
            (getattr(row, cost), 100 * row.top1),
            (-4, 4),
            textcoords="offset points",
            ha="right",
            color=_FRONT,
            fontsize=8,
        )
    names = [f"{number:2d}  {row.name}" for number, row in enumerate(front, 1)]
    axes.text(0.99, 0.02, "\n".join(names), transform=axes.transAxes, fontsize=7.5, **_LIST)
