"""Numbers of images by what became of them, as the manifests of finished stages have them."""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.words import reason_in_words
from data_catalog.images.columns import Images, read_images
from ppcls_core.data.lost import rejected_reason
from ppcls_core.dedup.run import NUM_NAMED, unusable
from ppcls_core.report.model import LeftOut
from tasks.run.store import Result

SHOWING = "show a validation image"  # a count of overlap
# Metrics: the folder of the result whose search it is, or some of whose labels, if not its own; and
# of how many labels.
TAKEN_OVER, NUM_TAKEN_OVER = "taken_over", "num_taken_over"
_JOINED = "with the labelled ones"
_ONE = {
    "duplicates": "duplicate",
    "classes": "class",
    SHOWING: "shows a validation image",
}
_SORTING = ("dedup", "select")  # stages that decide which pool images students learn from
# Metrics that count by reason what a stage's counts do not: images of another set, files.
_LEFT_OUT = {
    "val_rejected": "validation image",
    "passed_over": "file passed over",
    "damaged": "damaged",
}


def has_pool(data: Result) -> bool:
    """Whether the data sets have a pool: a recipe without one gives its training images as such."""
    if data.files["pool.arrow"].sha256 == data.files["train.arrow"].sha256:
        return False
    if data.counts["pool"] > data.counts["train"]:  # which a large pool is not read to find out
        return True
    try:
        return not _is_pool_in_train(data.directory)
    except UserError:  # the lists are not there any more, or damaged
        return True


@cache  # the files of a result do not change
def _is_pool_in_train(data: Path) -> bool:
    return are_all_in(*(read_images(data / f"{name}.arrow", {}) for name in ("pool", "train")))


def are_all_in(images: Images, others: Images) -> bool:
    """Whether each of `images` has the content of one of `others`: of a pool that is all in train
    nothing can be selected."""
    content = images.table["content"]
    found = pc.is_in(content, others.table["content"])
    return not content.null_count and pc.all(found, min_count=0).as_py()


def shown_counts(result: Result, done: Mapping[str, Result]) -> dict[str, int]:
    """The counts of `result`, one of `done`, as a user should read them: the teacher's images are
    left out where they are train's, without a pool nothing is counted as one, and what select
    gives on is told from what it has kept of the pool."""
    counts, data = dict(result.counts), done.get("data")
    if data and result.stage == "data":
        if data.files["teacher.arrow"].sha256 == data.files["train.arrow"].sha256:
            del counts["teacher"]
        counts["pool"] *= has_pool(data)
    elif result.stage == "select":
        if data and not has_pool(data):
            counts = {name: num for name, num in counts.items() if not rejected_reason(name)}
        counts = {_JOINED if name == "out" else name: num for name, num in counts.items()}
    return counts


def described(counts: Mapping[str, int]) -> str:
    """`counts` in words, rejections last and with their reasons; what is 0 is left out."""
    reasons = {reason: n for name, n in counts.items() if n and (reason := rejected_reason(name))}
    words = [
        f"{n:,} {_ONE.get(name, name) if n == 1 else name}"
        for name, n in counts.items()
        if n and not rejected_reason(name)
    ]
    if reasons:
        listed = (f"{n:,} {reason_in_words(reason)}" for reason, n in reasons.items())
        words.append(f"{sum(reasons.values()):,} rejected ({', '.join(listed)})")
    return ", ".join(words)


def left_out(done: Iterable[Result]) -> Iterator[LeftOut]:
    """A row for each stage and reason for which it did without images, first those that `ssld
    init` left out of the data sets; without a pool none of the stages that sort one."""
    results = {result.stage: result for result in done}
    data = results.get("data")
    if data and not has_pool(data):
        results = {name: result for name, result in results.items() if name not in _SORTING}
    for row in data.metrics.get("init", ()) if data else ():
        yield LeftOut("ssld init", **row)
    for result in results.values():
        names = _rejected_names(result)
        for name, number in result.counts.items():
            if name == "duplicates":
                yield LeftOut(result.stage, "duplicate", number)
            elif name == SHOWING and result.metrics["removed"]:
                yield LeftOut(result.stage, _ONE[SHOWING], number)
            elif reason := rejected_reason(name):
                yield LeftOut(result.stage, reason, number, names.get(reason, ()))
        for name, title in _LEFT_OUT.items():
            for reason, number in _leaves(result.metrics.get(name, {}), title):
                yield LeftOut(result.stage, reason, number)


def _rejected_names(result: Result) -> dict[str, list[str]]:
    """The first images that a stage rejected for each reason, where it has a table of them."""
    if "rejected.parquet" not in result.files:
        return {}
    rejected = unusable(result.directory)
    reasons = rejected["reason"].unique().to_pylist()
    chosen = {r: rejected.filter(pc.equal(rejected["reason"], r)) for r in reasons}
    return {r: rows["image_id"][:NUM_NAMED].to_pylist() for r, rows in chosen.items()}


def _leaves(counts: Mapping[str, Any] | int, title: str) -> Iterator[tuple[str, int]]:
    """(title with the keys that lead to it, number) of each number in nested `counts`."""
    if isinstance(counts, int):
        yield title, counts
        return
    for name, inner in counts.items():
        yield from _leaves(inner, f"{title}: {name}")
