"""The search that the stages overlap and dedup have in common: of some images for those of
validation. It takes over what earlier results have searched."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_catalog.base.files import read_json, write_json
from data_catalog.images.columns import Images, together
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.decisions import read_decisions
from ppcls_core.dedup.search import INDEX, RECORD, SHARDS, Search
from tasks.run.earlier import earlier_results, is_current
from tasks.run.stage import Work


def labelled_sets(work: Work) -> dict[str, Images]:
    """The splits of labelled images, as the stage data has them."""
    return {name: work.images(f"data/{name}.arrow") for name in ("train", "teacher")}


def search_of(work: Work, pool: Images, title: str, config: DedupConfig) -> Search:
    """The search of `pool`, which messages call `title`, in the folder of the stage."""
    return Search(
        pool=pool,
        against=work.images("data/val.arrow"),
        out=work.directory,
        config=config,
        workers=work.recipe.run_time.workers,
        shard_size=work.recipe.shard_size,
        cluster=work.recipe.run_time.cluster,
        decisions=read_decisions(config.reviewed),
        title=title,
    )


def take_over(work: Work, search: Search) -> str:
    """Copy what an earlier result has searched with the same settings, made by the same code.

    One of this stage has searched the same images, as decisions on its pairs come after; overlap's,
    which has no canaries, serves where the labelled images are those of the pool. Returns the
    folder copied from; "" if there is none.
    """
    other = next(_earlier(work, search), None)
    if other:
        work.monitor.note(f"the search is taken over from {other}")
        _copy(other, search)
    write_json(search.out / RECORD, search.identity)
    return str(other or "")


def _earlier(work: Work, search: Search) -> Iterator[Path]:
    """The folders of results that `search` may be taken over from."""
    for other in earlier_results(work, f"tasks.stages.{work.stage}"):
        if read_json(other.path(RECORD)) == search.identity:
            yield other.directory
    if overlap := work.inputs.get("overlap"):
        config = search.config.model_copy(update={"canaries": 0})
        settings = replace(search, config=config).settings
        if (
            is_current(overlap, "tasks.stages.overlap")
            and read_json(overlap.path(RECORD))["settings"] == settings
        ):
            labelled = together(*labelled_sets(work).values())
            names = ["image_id", "content"]  # a pool has no labels
            if labelled.table.select(names) == search.pool.table.select(names):
                yield overlap.directory


def _copy(other: Path, search: Search) -> None:
    shutil.copytree(other / SHARDS, search.out / SHARDS, dirs_exist_ok=True)
    if search.index is None and not search.index_folder.exists():
        # Whole or not at all: unlike shards, files of an index are believed as they lie.
        part = search.out / f".tmp-{INDEX}"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(other / INDEX, part)
        part.replace(search.index_folder)
    if other.parent == search.out.parent:
        shutil.copy2(other / "canaries.parquet", search.out)


def search_files(work: Work, search: Search) -> list[str]:
    """Names of all files that a search left in the stage's folder."""
    inner = (path for name in (INDEX, SHARDS) for path in work.path(name).glob("*"))
    return [
        *search.files(),
        RECORD,
        *sorted(str(path.relative_to(work.directory)) for path in inner),
    ]
