"""dedup: which pool images show a validation image, which are unusable, which are kept.

Files: those that `ppcls_core.dedup.search` lists, and pairs.html, the page of them.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ppcls_core.data.lost import rejected_counts
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import INDEX
from ppcls_core.report.search import PAGE, write_search_page
from tasks.run.counts import TAKEN_OVER, has_pool
from tasks.run.stage import Outcome, Work
from tasks.stages.searching import search_files, search_of, take_over


def run(work: Work) -> Outcome:
    """Search the pool for the validation images, shard by shard."""
    planted = work.table("data/planted.parquet")
    rows, pooled = planted.to_pylist(), has_pool(work.inputs["data"])
    pool, title = work.images("data/pool.arrow"), "pool" if pooled else "labelled"
    search = replace(
        search_of(work, pool, title, work.recipe.dedup),
        planted={(row["pool_id"], row["val_id"]): row["transform"] for row in rows},
        index=work.input(f"overlap/{INDEX}"),
    )
    taken = take_over(work, search)
    result = find_duplicates(search, work.monitor)
    write_search_page(search, result)
    return Outcome(
        files=[*search_files(work, search), PAGE],
        volatile=[PAGE],
        counts=_counts(result),
        metrics={
            **_metrics(result),
            "planted": planted_recall(planted, work.path("pairs.parquet")),
            TAKEN_OVER: taken,
        },
    )


def _counts(result: SearchResult) -> dict[str, int]:
    pool = result.pool
    counts = {"in": pool.images, "kept": pool.used, "duplicates": pool.duplicates}
    return counts | rejected_counts(pool.rejected)


def _metrics(result: SearchResult) -> dict[str, Any]:
    assert result.val is not None, "the stage searches for validation images"
    return {
        "pairs": result.num_pairs,
        "too_few_features": result.pool.too_few_features,
        "val_searched": result.val.used,
        "val_rejected": result.val.rejected,
        "val_too_few_features": result.val.too_few_features,
        "passed_over": result.passed_over,
        "canaries": result.canaries,
        "decisions": result.decision_counts,
    }


def planted_recall(planted: pa.Table, pairs: Path) -> dict[str, list[int]]:
    """transform -> [found, planted]; found means paired with the image it was made from."""
    found = pq.read_table(pairs, columns=["pool_id", "val_id"])
    found = found.filter(pc.is_in(found["pool_id"], planted["pool_id"].combine_chunks()))
    known = {(row["pool_id"], row["val_id"]) for row in found.to_pylist()}
    recall: dict[str, list[int]] = {}
    for row in planted.to_pylist():
        score = recall.setdefault(row["transform"], [0, 0])
        score[0] += (row["pool_id"], row["val_id"]) in known
        score[1] += 1
    return dict(sorted(recall.items()))
