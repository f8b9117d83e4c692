"""pairs.html: the page of a duplicate search by itself."""

from collections.abc import Mapping, Sequence

import pyarrow.parquet as pq

from data_catalog.base.files import write_bytes
from ppcls_core.dedup.result.gallery import duplicate_pairs
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import unusable
from ppcls_core.dedup.search import Search
from ppcls_core.report.model import PlantedRow, Rejected, SearchReport
from ppcls_core.report.page import render_search

PAGE = "pairs.html"
MAX_REJECTED = 100  # files that the page names


def write_search_page(search: Search, result: SearchResult) -> None:
    """Draw what a search left in its folder."""
    chosen = pq.read_table(search.out / "gallery.parquet")
    rejected = unusable(search.out)
    report = SearchReport(
        counts=result.pool_counts,
        decisions=result.decision_counts,
        rejected=[Rejected(**row) for row in rejected[:MAX_REJECTED].to_pylist()],
        num_rejected=len(rejected),
        val_counts=result.val_counts,
        passed_over=result.passed_over,
        canaries=planted_rows(result.canaries),
        duplicates=duplicate_pairs(chosen, search.pool.find, search.val.find, search.config),
        within=search.within,
    )
    write_bytes(search.out / PAGE, render_search(report).encode())


def planted_rows(recall: Mapping[str, Sequence[int]]) -> tuple[PlantedRow, ...]:
    """The rows of transform -> [found, planted]."""
    return tuple(PlantedRow(name, *score) for name, score in recall.items())
