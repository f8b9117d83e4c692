"""A search for duplicates: the images it searches, the folder it leaves its files in.

Files of the folder, whoever asks for the search:
    pairs.parquet, pairs.csv  PAIRS: which pool image shows which image, and where
    refused.parquet           PAIRS: those nearly accepted
    kept.arrow, kept.parquet  the pool's rest: as image set (data_catalog.images.columns), image_id
    rejected.parquet          REJECTED: every other pool image with the reason; a duplicate has the
                              reason `duplicate` and the other image's id as detail
    weak.parquet              IDS: those kept that have too few features for SIFT to be relied on
    val_rejected.parquet      REJECTED: validation images that could not be searched for
    val_weak.parquet          IDS: those searched for with too few features to find altered copies
    canaries.parquet          CANARIES: altered validation images that the search asked for itself
    gallery.parquet           GALLERY: some pairs to look at
    removed.json              to verify the removal with (ppcls_core.dedup.result.removal)
    index/                    of the validation images (ppcls_core.dedup.match.index)
    shards/                   of the pool (ppcls_core.runtime.shards): running again goes on behind
                              those that are whole
A search within a pool has no val_*.parquet: both sides are the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data_catalog.images.columns import Images
from data_catalog.images.identity import content_digest
from ppcls_core.dedup.config import DedupConfig

SHARDS, INDEX = "shards", "index"
TABLES = ("pairs", "refused", "rejected", "weak", "kept", "canaries", "gallery")
VAL_TABLES = ("val_rejected", "val_weak")
KINDS = ("pairs", "refused", "rejected", "weak")  # tables of a shard


@dataclass(frozen=True)
class Search:
    """The images of `pool` that show one of `against`, or, where that is None, one another.

    `out` is the folder of the files above; `shard_size` images are searched between two points from
    which a killed search goes on. `planted`: (pool_id, val_id) -> transform of copies known to be
    in the pool, which the gallery shows behind the others.
    """

    pool: Images
    against: Images | None
    out: Path
    config: DedupConfig
    workers: int
    shard_size: int = 2048
    planted: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def val(self) -> Images:
        """The images that are searched for; of a search within, the pool."""
        return self.pool if self.against is None else self.against

    @property
    def within(self) -> bool:
        """Whether the pool is searched within."""
        return self.against is None

    @cached_property
    def digests(self) -> tuple[str, str | None]:
        """Digests (sha256, hex) of the contents of `pool` and of `against`."""
        against = None if self.against is None else content_digest(self.against)
        return content_digest(self.pool), against

    def files(self) -> list[str]:
        """Names of the files of the result, but for those of the index and the shards."""
        tables = TABLES if self.within else (*TABLES, *VAL_TABLES)
        return [*(f"{n}.parquet" for n in tables), "pairs.csv", "kept.arrow", "removed.json"]
