"""Choosing among the published models by name, figures and order."""

import fnmatch
import operator
import re
from collections.abc import Iterable, Sequence

from data_catalog.base.config import UserError, closest
from data_catalog.published import PublishedWeights, published_weights

_T4 = [f"t4_{dtype}{batch}" for dtype in ("fp16", "fp32") for batch in ("", "_bs4", "_bs8")]
DEVICES = ("v100_fp32", *_T4, "sd855")
"""What the published latencies were measured on: a batch of one image, or of 4 or 8 (`bs`)."""
COLUMNS = ("name", "top1", "top5", "params", "flops", "latency")
_FIELDS = {"params": "mparams", "flops": "gflops"}
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def matching(patterns: Sequence[str], series: Sequence[str] = ()) -> list[PublishedWeights]:
    """Published models whose name matches one of `patterns` (`*` and `?`), and that are of one of
    `series`; without any of either, all. Raises UserError: a pattern that no name matches, or an
    unknown series."""
    rows = published_weights()
    known = dict.fromkeys(row.series for row in rows.values())
    for name in series:
        if name not in known:
            raise UserError(f"no series '{name}'; the series are {', '.join(known)}")
    for pattern in patterns:
        if not fnmatch.filter(rows, pattern):
            near = closest(pattern, rows) or "; `ppcls models` lists them"
            raise UserError(f"no model '{pattern}'{near}")
    chosen = {name for pattern in patterns or ["*"] for name in fnmatch.filter(rows, pattern)}
    return [row for name, row in rows.items() if name in chosen and row.series in (series or known)]


def figure(row: PublishedWeights, column: str, device: str) -> float | None:
    """Figure of the row: accuracies in %, millions, 10^9 operations, ms a batch."""
    if column in ("top1", "top5"):
        share = getattr(row, column)
        return None if share is None else 100 * share
    return getattr(row, f"{device}_ms" if column == "latency" else _FIELDS[column])


def where(
    rows: Iterable[PublishedWeights], conditions: Iterable[str], device: str
) -> list[PublishedWeights]:
    """The rows that meet all `conditions`, such as `top1>=79`; an unknown figure meets none. Raises
    UserError: not of that form, or an unknown column."""
    rows = list(rows)
    for condition in conditions:
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*", condition)
        if not match or match[1] not in COLUMNS[1:]:
            raise UserError(
                f"condition '{condition}': expected COLUMN<NUMBER (or <=, >, >=) with a column of "
                f"{', '.join(COLUMNS[1:])}, such as 'top1>=79'"
            )
        column, compare, limit = match[1], _COMPARE[match[2]], float(match[3])
        figures = [(row, figure(row, column, device)) for row in rows]
        rows = [row for row, value in figures if value is not None and compare(value, limit)]
    return rows


def in_order(rows: Iterable[PublishedWeights], column: str, device: str) -> list[PublishedWeights]:
    """Accuracies from the highest, all else from the lowest; an unknown figure comes last. Raises
    UserError: an unknown column."""
    if column not in COLUMNS:
        raise UserError(f"no column '{column}'{closest(column, COLUMNS)}")
    if column == "name":
        return sorted(rows, key=lambda row: row.name)
    sign = -1 if column.startswith("top") else 1

    def key(row: PublishedWeights) -> tuple[bool, float]:
        value = figure(row, column, device)
        return value is None, sign * (value or 0.0)

    return sorted(rows, key=key)


def devices_like(device: str) -> list[str]:
    """Those of DEVICES that are the same machine: a T4 has six, by precision and batch."""
    machine = device.partition("_")[0]
    return [other for other in DEVICES if other.partition("_")[0] == machine]
