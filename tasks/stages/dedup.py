"""dedup: which pool images show a validation image, which are unusable, which are kept.

Files: those that `ppcls_core.dedup.search` lists, and pairs.html, the page of them.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.files import read_json, write_json
from data_catalog.images.columns import together
from ppcls_core.data.lost import rejected_counts
from ppcls_core.dedup.decisions import read_decisions
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import INDEX, RECORD, SHARDS, Search
from ppcls_core.report.search import PAGE, write_search_page
from tasks.run.counts import has_pool
from tasks.run.source import source_hash
from tasks.run.stage import Outcome, Work
from tasks.run.store import MANIFEST


def run(work: Work) -> Outcome:
    """Search the pool for the validation images, shard by shard."""
    planted = work.table("data/planted.parquet")
    rows, pooled = planted.to_pylist(), has_pool(work.inputs["data"])
    search = Search(
        pool=work.images("data/pool.arrow"),
        against=work.images("data/val.arrow"),
        out=work.directory,
        config=work.recipe.dedup,
        workers=work.recipe.run_time.workers,
        shard_size=work.recipe.shard_size,
        cluster=work.recipe.run_time.cluster,
        planted={(row["pool_id"], row["val_id"]): row["transform"] for row in rows},
        decisions=read_decisions(work.recipe.dedup.reviewed),
        index=work.input(f"overlap/{INDEX}"),
        title="pool" if pooled else "labelled",
    )
    take_over(work, search, __name__)
    if not pooled:
        _take_over_overlap(work, search)
    result = find_duplicates(search, work.monitor)
    write_search_page(search, result)
    return Outcome(
        files=[*search_files(work, search), PAGE],
        volatile=[PAGE],
        counts=_counts(result),
        metrics=_metrics(result) | {"planted": planted_recall(planted, work.path("pairs.parquet"))},
    )


def search_files(work: Work, search: Search) -> list[str]:
    """Names of all files that a search left in the stage's folder."""
    inner = (path for name in (INDEX, SHARDS) for path in work.path(name).glob("*"))
    return [
        *search.files(),
        RECORD,
        *sorted(str(path.relative_to(work.directory)) for path in inner),
    ]


def take_over(work: Work, search: Search, module: str) -> None:
    """Copy what an earlier result of this stage, made by the same code, has searched of the same
    images with the same settings: the decisions on its pairs, which alone differ, come after."""
    for manifest in sorted(search.out.parent.glob(f"*/{MANIFEST}")):
        other, made = manifest.parent, read_json(manifest) or {}
        same = read_json(other / RECORD) == search.identity
        if other != search.out and same and made["record"]["source"] == source_hash(module):
            work.monitor.note(f"the search is taken over from {other}")
            for name in (INDEX, SHARDS):
                if (other / name).is_dir():
                    shutil.copytree(other / name, search.out / name, dirs_exist_ok=True)
            shutil.copy2(other / "canaries.parquet", search.out)
            break
    write_json(search.out / RECORD, search.identity)


def _take_over_overlap(work: Work, search: Search) -> None:
    """Copy the shards of the stage overlap, if the labelled images, which it has searched, are the
    pool."""
    made, config = work.inputs["overlap"], search.config.model_copy(update={"canaries": 0})
    is_same = read_json(made.path(RECORD))["settings"] == replace(search, config=config).settings
    is_current = made.record["source"] == source_hash("tasks.stages.overlap")
    labelled = together(*(work.images(f"data/{name}.arrow") for name in ("train", "teacher")))
    columns = ["image_id", "content"]
    is_pool = labelled.table.select(columns) == search.pool.table.select(columns)
    if is_same and is_current and is_pool and not work.path(SHARDS).exists():
        work.monitor.note("there is no pool: what overlap has searched is not searched again")
        shutil.copytree(made.path(SHARDS), work.path(SHARDS))


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
