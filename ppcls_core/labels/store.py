"""Soft labels by image and view, read by trainings from any number of shards.

    store = LabelStore.open(folder, Origin(teacher, preprocessing))
    logits = store.logprobs(image_ids, views)  # float32 [N, C]: the teacher's, up to a constant

Shards are mapped, not read. What is held is the index: 28 bytes for every run of rows with the
views of one image, one after the other: 140 MB for 5 million images, whatever the number of views,
when each has its views together. It is made when the store is opened, in about 2 s a million. Any
number of threads may ask at once. An index holds for its process: a store cannot be pickled, and is
opened in every process that needs it.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from ppcls_core.labels.encoding import decode, raw_columns, rest_bytes
from ppcls_core.labels.shard import Header, Origin, Shard, open_shards

_NUM_KEPT = 4  # row groups, of 16 MB each
_Block = dict[str, np.ndarray]
"""The raw columns of a row group, in the mapped file."""


@dataclass(frozen=True)
class Index:
    """Runs, consecutive rows of an image whose views follow one another, sorted by (hash, check,
    view): row `row + i` has view `view + i` for i < `size`.

    Ids are not kept but their hashes, 96 bits: among 5 million images the chance that any two are
    confused is 2e-16.
    """

    hash: np.ndarray  # int64
    check: np.ndarray  # uint32
    view: np.ndarray  # int32
    size: np.ndarray  # int32
    row: np.ndarray  # int64

    @staticmethod
    def of(batches: Iterable[pa.RecordBatch]) -> Index:
        """Index rows of batches with `image_id` and `view`, numbered in their order."""
        kinds = (np.int64, np.uint32, np.int32, np.int32, np.int64)
        parts, num_rows = [tuple(np.empty(0, kind) for kind in kinds)], 0
        for batch in batches:
            parts.append(_runs(batch["image_id"], batch["view"].to_numpy(), num_rows))
            num_rows += batch.num_rows
        runs = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((runs[2], runs[1], runs[0]))
        return Index(*(column[order] for column in runs))

    def rows(self, ids: Sequence[str], views: np.ndarray) -> np.ndarray:
        """int64 [N]: the row of each image's view, -1 where it is not there."""
        hashes, checks = _hashes(ids)
        place = np.searchsorted(self.hash, hashes)
        found = np.full(len(hashes), -1, np.int64)
        looking = np.arange(len(hashes))
        while len(looking):  # once for most: an image has one run, a hash one image
            looking = looking[place[looking] < len(self.hash)]
            looking = looking[self.hash[place[looking]] == hashes[looking]]
            at = place[looking]
            beyond = views[looking] - self.view[at]
            hit = (self.check[at] == checks[looking]) & (beyond >= 0) & (beyond < self.size[at])
            found[looking[hit]] = (self.row[at] + beyond)[hit]
            looking = looking[~hit]
            place[looking] += 1
        return found

    def first_repeated(self) -> int | None:
        """A row whose image and view another row has too, or None."""
        same = (self.hash[1:] == self.hash[:-1]) & (self.check[1:] == self.check[:-1])
        again = same & (self.view[1:] < self.view[:-1] + self.size[:-1])
        return int(self.row[1:][again][0]) if again.any() else None


def _runs(ids: pa.Array, views: np.ndarray, first_row: int) -> tuple[np.ndarray, ...]:
    """Index's columns for consecutive rows."""
    same = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    goes_on = same & (np.diff(views) == 1)
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(ids), 1), bool), ~goes_on]))
    sizes = np.diff(starts, append=len(ids)).astype(np.int32)
    hashes, checks = _hashes(ids.take(pa.array(starts)).to_pylist())
    return hashes, checks, views[starts], sizes, starts + first_row


def _hashes(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [N], uint32 [N]) of ids; the first is another in every process."""
    num = len(ids)
    checks = np.fromiter((zlib.crc32(image_id.encode()) for image_id in ids), np.uint32, num)
    return np.fromiter(map(hash, ids), np.int64, num), checks


@dataclass(frozen=True)
class LabelStore:
    """Random access to the soft labels in a folder of shards."""

    folders: str
    header: Header
    shards: tuple[Shard, ...]
    _index: Index
    _blocks: tuple[_Block, ...]
    _starts: np.ndarray  # int64: the number of each block's first row, counted over all shards

    @staticmethod
    def open(*folders: Path, origin: Origin | None = None) -> LabelStore:
        """The labels in `folders`. Raises UserError: no shard in one, a damaged one, one of another
        `origin` or made otherwise than the others, or a view of an image that is there twice."""
        shards = open_shards(*folders, origin=origin)
        blocks = tuple(block for shard in shards for block in _map(shard))
        ends = np.cumsum([0, *(len(block["top_logprob"]) for block in blocks)], dtype=np.int64)
        index = Index.of(b for shard in shards for b in shard.batches(["image_id", "view"]))
        again = index.first_repeated()
        if again is not None:
            raise _repeated(shards, again)
        names = ", ".join(map(str, folders))
        return LabelStore(names, shards[0].header, tuple(shards), index, blocks, ends[:-1])

    def __len__(self) -> int:
        """Number of labels: of images times views."""
        return sum(shard.metadata.num_rows for shard in self.shards)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a LabelStore cannot be pickled: open it in each process")

    def logprobs(self, ids: Sequence[str], views: Sequence[int] | int = 0) -> np.ndarray:
        """The teacher's log-probabilities float32 [N, C] for image `ids[n]` in view `views[n]`.
        Raises UserError: one of them is not there."""
        wanted = np.broadcast_to(np.asarray(views, np.int64), len(ids))
        rows = self._index.rows(ids, wanted)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            first = missing[0]
            raise UserError(
                f"{self.folders}: {len(missing):,} of {len(ids):,} soft labels asked for are not "
                f"there, the first: image {ids[first]}, view {wanted[first]}; label these images "
                "in these views"
            )
        places = self._places(rows)
        columns: dict[str, np.ndarray] = {}
        for name, kind in _layout(self.header).items():
            columns[name] = np.empty(len(places), kind)
            for position, (block, row) in enumerate(places):
                columns[name][position] = self._blocks[block][name][row]
        return decode(columns, self.header.encoding, self.header.num_classes)

    def stored(self, ids: Sequence[str], views: Sequence[int]) -> pa.Table:
        """The rows of the shards for image `ids[n]` in view `views[n]`, all of which are there:
        a `label_table`. Row groups are read whole, and a few are kept: ask in their order.
        """
        places = self._places(self._index.rows(ids, np.asarray(views)))
        groups = groupby(places, key=itemgetter(0))
        return pa.concat_tables(
            [self._row_group(block).take([row for _, row in own]) for block, own in groups]
        )

    def _places(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(number of its block, row there) of each row."""
        numbers = np.searchsorted(self._starts, rows, "right") - 1
        return list(zip(numbers.tolist(), (rows - self._starts[numbers]).tolist(), strict=True))

    @cached_property
    def _row_group(self) -> Callable[[int], pa.Table]:
        """All columns of a block."""
        files = [(s, n) for s in self.shards for n in range(s.metadata.num_row_groups)]
        blocks = [(s.path, n) for s, n in files if s.metadata.row_group(n).num_rows]

        @lru_cache(_NUM_KEPT)
        def read(block: int) -> pa.Table:
            path, number = blocks[block]
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return file.read_row_group(number, use_threads=False)

        return read

    def has(self, ids: Sequence[str], view: int) -> np.ndarray:
        """bool [N]: whether this view of each image is labelled."""
        return self._index.rows(ids, np.full(len(ids), view)) >= 0


def _repeated(shards: Sequence[Shard], row: int) -> UserError:
    """The error that names the image in this row, counted over all shards."""
    for shard in shards:
        for batch in shard.batches(["image_id", "view"]):
            if row < batch.num_rows:
                image_id, view = (column[row].as_py() for column in batch.columns)
                return UserError(
                    f"{shard.path}: image {image_id}, view {view} has another label in this store; "
                    "delete the store and run the label stage again"
                )
            row -= batch.num_rows
    raise AssertionError(f"no row {row}")


def _layout(header: Header) -> dict[str, np.dtype]:
    """How a value of each raw column lies in the file."""
    types: dict[str, tuple[str, tuple[int, ...]]] = {
        "top_class": ("<i4", (header.num_top,)),  # Parquet has no shorter integers
        "top_logprob": ("<f4", (header.num_top,)),
        "tail_high": ("<f4", ()),
        "tail_range": ("<f4", ()),
        "rest": ("u1", (rest_bytes(header.encoding, header.num_classes),)),
    }
    return {name: np.dtype(types[name]) for name in raw_columns(header.encoding)}


def _map(shard: Shard) -> Iterator[_Block]:
    """The raw columns of each row group, in the mapped file."""
    with pa.memory_map(str(shard.path)) as file:
        data = file.read_buffer()  # outlives the file, so that no descriptor is held
    layout = _layout(shard.header)
    for number in range(shard.metadata.num_row_groups):
        group = shard.metadata.row_group(number)
        chunks = (group.column(column) for column in range(group.num_columns))
        by_name = {chunk.path_in_schema.partition(".")[0]: chunk for chunk in chunks}
        if group.num_rows:
            yield {
                name: np.frombuffer(
                    data,
                    kind,
                    group.num_rows,
                    _begin(shard, data, by_name.get(name), kind.itemsize * group.num_rows),
                )
                for name, kind in layout.items()
            }


def _begin(shard: Shard, data: pa.Buffer, chunk: pq.ColumnChunkMetaData | None, size: int) -> int:
    """Where in the file the `size` bytes of a column chunk's values begin.

    They are the end of its only page: before them are its header and its levels.

    Raises UserError: it has several pages, or they are not plain.
    """
    if chunk is None:
        raise UserError(f"{shard.path}: a column is missing; run the label stage again")
    end = chunk.data_page_offset + chunk.total_compressed_size
    plain = chunk.compression == "UNCOMPRESSED" and chunk.dictionary_page_offset is None
    if not plain or end > data.size or _page_size(data, chunk.data_page_offset) < size:
        raise UserError(
            f"{shard.path}: column {chunk.path_in_schema} cannot be mapped: another program has "
            "written the file; run the label stage again"
        )
    return end - size


def _page_size(data: pa.Buffer, offset: int) -> int:
    """Bytes of the page at `offset` without its header, which is Thrift's compact protocol.

    Its first three fields are type, size and compressed size: each a byte and a zigzag varint.
    """
    header, value = iter(data.slice(offset, 24).to_pybytes()), 0
    for _ in range(3):
        next(header, 0)
        value = shift = 0
        for byte in header:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return value >> 1
