"""Images that could not be read: counted by reason, reported, and an error when too many."""
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.words import reason_in_words
from data_catalog.images.columns import Images

MAX_LOST = 0.1  # share of a set's images that may be unreadable
_REJECTED = "rejected: "

Lost = dict[str, tuple[str, str]]
"""Image id -> (reason, detail)."""


def counts_of(lost: Lost) -> dict[str, int]:
    """Number of images by reason, sorted by reason."""
    return dict(sorted(Counter(reason for reason, _ in lost.values()).items()))


def reason_counts(rejected: pa.Table) -> dict[str, int]:
    """Number of rows by reason of a table REJECTED, of millions perhaps; sorted by reason."""
    found = pc.value_counts(rejected["reason"])
    return dict(sorted((row["values"], row["counts"]) for row in found.to_pylist()))


def rejected_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """`counts` by reason, named as the counts of a manifest and of a history name them."""
    return {f"{_REJECTED}{reason}": number for reason, number in counts.items()}


def rejected_reason(name: str) -> str:
    """Why the images were rejected that the count `name` is of; "" if it is of no rejected ones."""
    return name.removeprefix(_REJECTED) if name.startswith(_REJECTED) else ""


def lost_text(kind: str, counts: Mapping[str, int], total: int) -> str:
    """A sentence for the user on the `counts` by reason among `total` images; "" without any."""
    num = sum(counts.values())
    reasons = ", ".join(f"{reason_in_words(reason)}: {n:,}" for reason, n in counts.items())
    return f"{num:,} of {total:,} {kind} images could not be used ({reasons})" if num else ""


def check_lost(kind: str, counts: Mapping[str, int], total: int, max_lost: float) -> None:
    """Raise UserError if more than the share `max_lost` of `total` images, or all, are lost."""
    num = sum(counts.values())
    if not total:
        raise UserError(f"there are no {kind} images: check the list or folder")
    if num == total or num > max_lost * total:
        raise UserError(
            f"{lost_text(kind, counts, total)}; at most a share of {max_lost:g} (`max_lost`) is "
            "allowed: check the list and the folder that its paths are relative to"
        )


def missing_of(images: Images) -> dict[str, int]:
    """The counts of images that were not there when the set was read; no file is opened."""
    missing = int(np.count_nonzero(images.table["size"].to_numpy() < 0))
    return {"missing": missing} if missing else {}
