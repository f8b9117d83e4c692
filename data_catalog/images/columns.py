"""A set of images as the columns of one Arrow table, memory-mapped: no Python object a row.

14.2 million rows take 1.2 GB on disk and next to none in memory; as Path objects they would take
4.6 GB. Rows are positions in the table. Files are written once (`write_images`) and mapped when
they are read (`read_images`), so that every process of a machine shares them.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.files import atomic_path
from data_catalog.images.formats import text_of

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("root", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("path", pa.dictionary(pa.int32(), pa.binary())),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("content", pa.binary(16)),
    ]
)
"""`image_id`: unique in a set; the path relative to the root, of an image within a tar TAR/member;
bytes that are not UTF-8 are written out (\\xff). `root`: the *name* of a root folder, so that a
table does not depend on where the data lies. `path`: of the file, or of the tar that holds the
image, relative to the root; null where it is the id. `offset`: of the image's first byte within
the tar; null for a whole file. `size`: bytes, -1 where there is no such file. `label`: null
where unknown. `content`: the first 16 bytes of the sha256 of the image's bytes; null where they
cannot be read."""

REJECTED = pa.schema([("image_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
IDS = pa.schema([("image_id", pa.string())])
ROOT = "images"  # the name of the one root of a set that is read
NUM_EXAMPLES = 10  # names kept of what is passed over for one reason
PART = 16_384  # rows of a record batch: what is decoded at a time
_NULLS = {entry.name: pa.nulls(PART, entry.type) for entry in SCHEMA if entry.nullable}
_ZEROS = pa.array(np.zeros(PART, np.int32))
_PLACE = ("root", "image_id", "path", "offset", "size")

Roots = dict[str, str]  # name of a root -> absolute folder on this machine
MOVED = "SSLD_ROOTS"  # variable: JSON, folder elsewhere -> the same folder on this machine


class Member(NamedTuple):
    """An image within a tar, which is read in place: `size` bytes from `offset` on."""

    archive: Path
    offset: int
    size: int


class Made(NamedTuple):
    """An image that no file holds: `make` gives the bytes of one."""

    make: Callable[[], bytes]


Source = Path | Member | Made  # where the bytes of an image come from


@dataclass(frozen=True)
class PassedOver:
    """Files of one kind that a reader met and that are no row: how many, and the first few names.

    Reasons: `tar` (its members are counted each), `not_an_image`, `unread_format` (HEIC, AVIF, JPEG
    XL, JPEG 2000), `hidden`, `same_file` (another name of a row), `same_folder` (the files of a
    folder that is linked to or met again), `special_file` (pipe, socket, device), `broken_link`,
    `unreadable`, `outside_classes`; within a tar also `replaced` (a later member has its name) and
    `too_deep`.
    """

    reason: str
    count: int
    examples: tuple[str, ...] = ()


class Tally:
    """Counts files that are passed over, by reason, and keeps the first few names of each."""

    def __init__(self) -> None:
        self._counts, self._examples = Counter[str](), defaultdict[str, list[str]](list)

    def add(self, reason: str, examples: Sequence[str], count: int | None = None) -> None:
        """Count `count` files, by default those named."""
        self._counts[reason] += len(examples) if count is None else count
        kept = self._examples[reason]
        kept += examples[: NUM_EXAMPLES - len(kept)]

    def add_all(self, passed_over: Iterable[PassedOver], prefix: str = "") -> None:
        """Count what was passed over before; `prefix` comes in front of the examples."""
        for entry in passed_over:
            self.add(entry.reason, [prefix + name for name in entry.examples], entry.count)

    def result(self) -> tuple[PassedOver, ...]:
        """The counts, sorted by reason."""
        return tuple(
            PassedOver(reason, count, tuple(self._examples[reason]))
            for reason, count in sorted(self._counts.items())
        )


@dataclass(frozen=True)
class Images:
    """A set of images: `table` has SCHEMA's columns, `classes` the class names (index = label).

    `roots` says where each root lies on this machine. `passed_over` accounts for the files that
    were met and are no row; `damaged` (rows of REJECTED) for what may have held images and could
    not be read as a whole: damaged or compressed tars, links that lead nowhere.
    """

    table: pa.Table
    roots: Roots = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    damaged: pa.Table = field(default_factory=REJECTED.empty_table)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def ids(self) -> Sequence[str]:
        """image_id of each row, decoded when it is asked for."""
        return _Texts(self.table["image_id"])

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 [rows], -1 where the label is unknown."""
        return self.table["label"].fill_null(-1).to_numpy().astype(np.int32, copy=False)

    def source(self, row: int) -> Source:
        """Where the bytes of one image are."""
        return self._source(*(self.table[name][row].as_py() for name in _PLACE))

    def sources(self, rows: Iterable[int] | None = None) -> list[Source]:
        """Where the bytes of these images are; by default of all."""
        part = self if rows is None else self.take(list(rows))
        columns = (part.table[name].to_pylist() for name in _PLACE)
        return [self._source(*row) for row in zip(*columns, strict=True)]

    def _source(
        self, root: str, image_id: str, path: bytes | None, offset: int | None, size: int
    ) -> Source:
        if root not in self.roots:
            raise UserError(f"root '{root}' of the images is not among {sorted(self.roots)}")
        found = Path(self.roots[root], image_id if path is None else os.fsdecode(path))
        return found if offset is None else Member(found, offset, size)

    def take(self, rows: np.ndarray | Sequence[int]) -> Images:
        """The images of these rows (positions, or a boolean mask), in that order."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return replace(self, table=_take(self.table, index))

    def part(self, start: int, stop: int) -> Images:
        """The images of the rows from `start` to before `stop`; nothing is copied."""
        return replace(self, table=self.table.slice(start, stop - start))

    def rows_of(self, ids: Iterable[str]) -> np.ndarray:
        """int64: the rows of those of `ids` that are here, ascending."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        return np.flatnonzero(pc.is_in(self.table["image_id"], wanted).to_numpy())

    def find(self, ids: Iterable[str]) -> dict[str, Source]:
        """Where the bytes of those of `ids` that are here are."""
        rows = self.rows_of(ids)
        found = self.take(rows)
        return dict(zip(found.ids, found.sources(), strict=True))


def together(first: Images, second: Images) -> Images:
    """The images of `first` and those of `second` that have other ids."""
    is_known = pc.is_in(second.table["image_id"], first.table["image_id"].combine_chunks())
    table = pa.concat_tables([first.table, second.table.filter(pc.invert(is_known))])
    return replace(first, table=table, roots=second.roots | first.roots)


def are_same(images: Images, others: Images) -> np.ndarray:
    """bool [images]: whether `others` have an image of the same id and content."""
    ids = others.table["image_id"].combine_chunks()
    rows = pc.index_in(images.table["image_id"], ids)
    content = others.table["content"].combine_chunks().take(rows.combine_chunks())
    own = images.table["content"].combine_chunks()
    return pc.equal(own, content).fill_null(False).to_numpy(zero_copy_only=False)


def loose_images(
    root: Path, names: Sequence[str], labels: Sequence[int | None] | np.ndarray | None = None
) -> Images:
    """The files `names`, which are also the ids, under `root`; their sizes are asked for."""
    sizes = [path.stat().st_size if path.is_file() else -1 for path in map(root.joinpath, names)]
    given = {} if labels is None else {"label": pa.array(labels, pa.int32())}
    paths = pa.array(map(os.fsencode, names), pa.binary())
    return Images(file_table(paths, sizes, **given), {ROOT: str(root.absolute())})


def file_table(paths: pa.Array, sizes: Any, **columns: Any) -> pa.Table:
    """Rows of whole files; `paths` (binary) are relative to the root ROOT. See `image_table`."""
    try:
        return image_table(paths.cast(pa.string()), sizes, **columns)
    except pa.ArrowInvalid:  # a name is not UTF-8
        raw = paths.to_pylist()
        texts = list(map(text_of, raw))
        pairs = zip(raw, texts, strict=True)
        kept = pa.array([p if text.encode() != p else None for p, text in pairs], pa.binary())
        return image_table(texts, sizes, path=kept.dictionary_encode(), **columns)


def image_table(ids: Any, sizes: Any, root: str = ROOT, **columns: Any) -> pa.Table:
    """A table of SCHEMA; of its other columns those that are not given are null."""
    nulls = {name: alike(part, len(ids)) for name, part in _NULLS.items() if name not in columns}
    given = {"image_id": ids, "root": repeated(root, len(ids)), "size": sizes}
    return pa.table(nulls | given | columns, schema=SCHEMA)


def repeated(value: str | bytes, num: int) -> pa.ChunkedArray:
    """A dictionary column of `num` rows with that value; see `alike`."""
    return alike(pa.DictionaryArray.from_arrays(_ZEROS, pa.array([value])), num)


def alike(part: pa.Array, num: int) -> pa.ChunkedArray:
    """`num` rows like those of `part`, PART equal ones, whose memory they share."""
    whole, rest = divmod(num, PART)
    return pa.chunked_array([*[part] * whole, part.slice(0, rest)], part.type)


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """These rows; ascending ones batch by batch, for Arrow would copy the whole table."""
    if len(rows) > 1 and (np.diff(rows) < 0).any():
        return table.take(pa.array(rows))
    parts, start = [table.schema.empty_table()], 0
    for batch in table.to_batches():
        low, high = np.searchsorted(rows, (start, start + len(batch)))
        if low < high:
            parts.append(pa.table(batch.take(pa.array(rows[low:high] - start))))
        start += len(batch)
    return pa.concat_tables(parts)


@dataclass(frozen=True)
class _Texts(Sequence[str]):
    """A column of texts as a sequence that holds none of them."""

    column: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self.column.slice(start, max(0, stop - start)).to_pylist()[::step]
        return self.column[index].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self.column.chunks:
            for start in range(0, len(chunk), PART):
                yield from chunk.slice(start, PART).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def write_images(path: Path, images: Images, mask: np.ndarray | None = None) -> None:
    """Write `images`, or those that `mask` (bool [rows]) marks, to an Arrow file atomically; equal
    sets give equal bytes, however chunked. A part at a time is held."""
    metadata = {
        "classes": json.dumps(list(images.classes), ensure_ascii=False),
        "passed_over": json.dumps(
            [[p.reason, p.count, list(p.examples)] for p in images.passed_over], ensure_ascii=False
        ),
        "damaged": json.dumps(images.damaged.to_pylist(), ensure_ascii=False),
    }
    table = images.table.select(SCHEMA.names).cast(SCHEMA)
    for at, entry in enumerate(SCHEMA):
        if pa.types.is_dictionary(entry.type):
            table = table.set_column(at, entry, one_dictionary(table[entry.name]))
    schema = SCHEMA.with_metadata(metadata)
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        rows = range(len(table)) if mask is None else np.flatnonzero(mask)
        for start in range(0, len(rows), PART):
            chosen = np.asarray(rows[start : start + PART])
            part = table.slice(chosen[0], chosen[-1] - chosen[0] + 1)
            fresh = part.take(pa.array(chosen - chosen[0]))  # without what was sliced away
            for batch in fresh.combine_chunks().to_batches():
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def one_dictionary(column: pa.ChunkedArray) -> pa.Array:
    """`column` with one dictionary, of the values that are there in the order of their first rows.

    It is not decoded: the paths of 14.2 million images would take half a gigabyte.
    """
    chunks = column.unify_dictionaries().chunks or [pa.nulls(0, column.type)]
    values, codes = chunks[0].dictionary, pa.chunked_array([chunk.indices for chunk in chunks])
    used = codes.unique().drop_null()
    places = np.zeros(len(values), np.int32)
    places[used.to_numpy()] = np.arange(len(used))
    codes = pa.array(places).take(codes).combine_chunks()  # null stays null
    return pa.DictionaryArray.from_arrays(codes, values.take(used))


def read_images(path: Path, roots: Roots) -> Images:
    """The images in `path`, memory-mapped, whose roots lie as `roots` says. Raises UserError: not
    an Arrow file with SCHEMA's columns."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read as images ({error}); make it anew") from error
    if table.schema.names != SCHEMA.names:
        raise UserError(f"{path}: got columns {table.schema.names}, expected {SCHEMA.names}")
    texts = {k.decode(): json.loads(v) for k, v in (table.schema.metadata or {}).items()}
    passed_over = tuple(PassedOver(r, n, tuple(e)) for r, n, e in texts.get("passed_over", ()))
    damaged = pa.Table.from_pylist(texts.get("damaged", []), REJECTED)
    table = table.replace_schema_metadata(None)
    return Images(table, moved(roots), tuple(texts.get("classes", ())), passed_over, damaged)


def moved(roots: Roots) -> Roots:
    """`roots` of another machine as they lie on this one, by the variable MOVED."""
    places = {Path(there): here for there, here in json.loads(os.environ.get(MOVED, "{}")).items()}

    def place(folder: Path) -> Path:
        found = next((one for one in (folder, *folder.parents) if one in places), None)
        return folder if found is None else places[found] / folder.relative_to(found)

    return {name: str(place(Path(folder))) for name, folder in roots.items()} if places else roots
