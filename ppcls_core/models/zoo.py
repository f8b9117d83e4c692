"""Choosing among the published models by name, figures and order."""

import fnmatch
import operator
import re
from collections.abc import Iterable, Sequence

from data_catalog.base.config import UserError, closest
from data_catalog.published import PublishedWeights, published_weights

DEVICES = ("v100_fp32", "t4_fp16", "t4_fp32", "sd855")
COLUMNS = ("name", "top1", "top5", "params", "flops", "latency")
_FIELDS = {"params": "mparams", "flops": "gflops"}
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def matching(patterns: Sequence[str]) -> list[PublishedWeights]:
    """Published models whose name matches one of `patterns` (`*` and `?`); all without any. Raises
    UserError: a pattern that no name matches."""
    rows = published_weights()
    for pattern in patterns:
        if not fnmatch.filter(rows, pattern):
            near = closest(pattern, rows) or "; `ppcls models` lists them"
            raise UserError(f"no model '{pattern}'{near}")
    chosen = {name for pattern in patterns or ["*"] for name in fnmatch.filter(rows, pattern)}
    return [row for name, row in rows.items() if name in chosen]


def figure(row: PublishedWeights, column: str, device: str) -> float | None:
    """Figure of the row: accuracies in %, millions, 10^9 operations, ms on `device`."""
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
