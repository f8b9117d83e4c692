"""A search for duplicates: the images it searches, the folder it leaves its files in.

Files of the folder, whoever asks for the search:
    pairs.parquet, pairs.csv  PAIRS: which pool image shows which image, and where
    refused.parquet           PAIRS: those nearly accepted, and those that a person has refused
    kept.arrow                the pool's rest as image set (data_catalog.images.columns)
    kept.parquet, kept.txt    its ids; the latter as a list, relative to the pool's folder
    rejected.parquet, .csv    REJECTED: every other pool image with the reason; a duplicate has the
                              reason `duplicate` and the other image's id as detail
    weak.parquet              IDS: those kept that have too few features for SIFT to be relied on
    val_rejected.parquet      REJECTED: validation images that could not be searched for
    val_weak.parquet          IDS: those searched for with too few features to find altered copies
    canaries.parquet          CANARIES: altered validation images searched for, and the outcome
    gallery.parquet           GALLERY: some pairs to look at
    removed.json              to verify the removal with (ppcls_core.dedup.result.removal)
    reviewed.jsonl            decisions of a person (ppcls_core.dedup.decisions), where there are
    index/                    of the validation images (ppcls_core.dedup.match.index)
    shards/                   of the pool (ppcls_core.runtime.shards): a second run goes on behind
                              those that are whole
A search within a pool has no val_*.parquet: both sides are the pool.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data_catalog.base.config import UserError, parse
from data_catalog.base.files import LockHeld, digest_of, locked, read_json, write_json
from data_catalog.images.columns import Images, together
from data_catalog.images.identity import content_digest
from data_catalog.recipes import MANIFEST, images_in
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.decisions import REVIEWED, Decisions
from ppcls_core.dedup.match.index import FORMAT
from ppcls_core.runtime.cluster import LOCAL

SHARDS, INDEX, RECORD, LOCK = "shards", "index", "search.json", ".lock"
POOL = ".pool.arrow"  # the pool for the hosts of a cluster, while they search
LIST = "removed.json"  # the last file of a search
JUDGED = ("pairs", "refused")  # tables of the pairs that a person may judge
KINDS = (*JUDGED, "rejected", "weak")  # tables of a shard
TABLES = (*KINDS, "kept", "canaries", "gallery")
VAL_TABLES = ("val_rejected", "val_weak")
TEXTS = ("pairs.csv", "kept.txt", "rejected.csv")


@dataclass(frozen=True)
class Search:
    """The images of `pool` that show one of `against`, or, where that is None, one another.

    `out` is the folder of the files above; `shard_size` images are searched between two points from
    which a killed search goes on. `planted`: (pool_id, val_id) -> transform of copies known to be
    in the pool, which the gallery shows behind the others. `cluster`: who searches the pool, see
    `ppcls_core.runtime.cluster`; `out` then lies where all hosts see it under the same path.
    `decisions` overrule the search's. `index`: the folder of an index of `against` that another
    search has made. `title`: the pool's name in messages.
    """

    pool: Images
    against: Images | None
    out: Path
    config: DedupConfig
    workers: int
    shard_size: int = 2048
    planted: Mapping[tuple[str, str], str] = field(default_factory=dict)
    cluster: str = LOCAL
    decisions: Decisions = field(default_factory=Decisions)
    index: Path | None = None
    title: str = "pool"

    @property
    def val(self) -> Images:
        """The images that are searched for; of a search within, the pool."""
        return self.pool if self.against is None else self.against

    @property
    def index_folder(self) -> Path:
        """Where the index of the images that are searched for lies, absolute."""
        return (self.index or self.out / INDEX).absolute()

    @property
    def within(self) -> bool:
        """Whether the pool is searched within."""
        return self.against is None

    @cached_property
    def digests(self) -> tuple[str, str | None]:
        """Digests (sha256, hex) of the contents of `pool` and of `against`."""
        against = None if self.against is None else content_digest(self.against)
        return content_digest(self.pool), against

    @property
    def settings(self) -> str:
        """Digest of the settings that decide the pairs that are found, and of what the files are
        like."""
        return digest_of([FORMAT, self.shard_size, self.config.model_dump(mode="json")])

    @property
    def identity(self) -> dict[str, object]:
        """Digests of the settings and of the images, which decide the pairs that are found."""
        return {"settings": self.settings, "images": list(self.digests)}

    def files(self) -> list[str]:
        """Names of the files of the result, but for those of the index and the shards."""
        tables = TABLES if self.within else (*TABLES, *VAL_TABLES)
        return [*(f"{n}.parquet" for n in tables), *TEXTS, "kept.arrow", LIST]


def stage_search(folder: Path) -> Search:
    """The finished search that a stage of the pipeline left in `folder`, its images as the store's
    stage `data` has them. Raises UserError: a stage that searches nothing, or no such images."""
    record, made = read_json(folder / RECORD), read_json(folder / MANIFEST)
    if record is None:
        raise UserError(
            f"{folder}: is of the stage {made['stage']}, which searches nothing; give a folder of "
            "dedup or overlap"
        )
    config = parse(DedupConfig, made["settings"]["dedup"], str(folder))
    data = (path.parent for path in folder.parents[1].glob(f"data/*/{MANIFEST}"))
    for at in sorted(data, key=lambda path: path.stat().st_mtime, reverse=True):
        if made["stage"] == "dedup":
            pool = images_in(at, "pool")
        else:
            pool = together(images_in(at, "train"), images_in(at, "teacher"))
        search = Search(pool, images_in(at, "val"), folder, config, workers=1)
        if list(search.digests) == record["images"]:
            return search
    raise UserError(f"{folder}: its images are not in the store any more; run the recipe again")


def check_given(out: Path, given: Sequence[Path]) -> None:
    """Refuse a result's folder that lies in what is searched, or that holds other files, and a set
    that is searched against itself. `given`: the pool, and what it is searched against."""
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: no folder, list file or tar there; correct the path")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out}: lies in {path}, which is searched; take another folder")
    if len(given) > 1 and given[0].resolve() == given[1].resolve():
        raise UserError(f"{given[0]}: is searched against itself; use --within for that")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give the name of a folder")
    inside = {path.name for path in out.iterdir() if path.name != LOCK} if out.exists() else set()
    if inside and RECORD not in inside:
        raise UserError(f"{out}: holds other files; take a new folder")


@contextmanager
def reserved(search: Search, given: Sequence[Path], note: Callable[[str], None]) -> Iterator[None]:
    """Hold `search.out` for this search alone; `note` takes messages on an earlier one there.

    A search of the same images, wherever they lie, and settings is resumed. One whose images
    have other contents than when `given` was searched before is done anew.

    Raises UserError: another process writes there, or the work of another search lies there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(search.out / LOCK))
        except LockHeld as holder:
            why = f"another search, process {holder}, writes there; wait or take another"
            raise UserError(f"{search.out}: {why}") from None
        except OSError as error:
            why = f"cannot be written ({error.strerror}); take another"
            raise UserError(f"{search.out}: {why}") from error
        _record(search, [str(path.absolute()) for path in given], note)
        for temporary in search.out.rglob(".tmp-*"):  # what a killed search was writing
            temporary.unlink()
        yield


def _record(search: Search, given: list[str], note: Callable[[str], None]) -> None:
    """Leave the record of this search, unless the folder is another's; clear outdated work."""
    record = search.identity | {"given": given}
    earlier = read_json(search.out / RECORD)
    if isinstance(earlier, dict):
        same = {name for name in record if earlier.get(name) == record[name]}
        if "settings" not in same or not same & {"images", "given"}:
            why = "holds a search with other images or settings; remove it or take another"
            raise UserError(f"{search.out}: {why}")
        if "images" not in same:
            note("the images have changed since they were searched: they are searched anew")
            _clear(search.out)
    write_json(search.out / RECORD, record)


def _clear(out: Path) -> None:
    """Remove all but the lock and a person's decisions, which are of contents."""
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (LOCK, REVIEWED):
            path.unlink()
