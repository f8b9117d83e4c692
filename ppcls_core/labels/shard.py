"""A shard of soft labels: a Parquet file, one row a view of an image. No column holds nulls.

    image_id     string
    view         int32: 0 the image as in a test, 1 and up augmented views
    seed         int64: of the view's random generator; 0 for view 0
    top_class    fixed-size list of uint16 (int32 from 65,537 classes on) [T]: the T best classes,
                 best first, equal ones by class
    top_logprob  fixed-size list of float32 [T]: their log-probabilities, exact
    entropy      float32: of the teacher's probabilities, in nats
    tail_high    float32 (int8, topk)
    tail_range   float32 (int8)
    rest         fixed-size binary (int8, fp16): a code or a float16 a class, by class

`ppcls_core.labels.encoding` says how tail_high, tail_range and rest give the log-probabilities of
the classes that are not among the T best.

The schema's metadata: `format` (FORMAT), `teacher` and `preprocessing` (fingerprints; the latter of
all that is done to an image's pixels, the augmentation of its views included), `precision` (in
which the teacher ran), `encoding`, `k` (T of topk), `num_classes`, `libraries` (versions, as JSON).

Any Parquet reader can read it. The columns that `raw_columns` names are one plain page a row group,
not compressed, so that a row can be found in the mapped file without reading any other; the others
are compressed.
"""
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from ppcls_core.labels.encoding import NUM_TOP, EncodingName, encode, raw_columns, rest_bytes
from ppcls_core.runtime.versions import installed_versions

FORMAT = "1"
PATTERN = "shard-*.labels.parquet"  # names of the shards in a folder
LIBRARIES = ("paddle", "numpy", "pyarrow")  # modules
_ENCODINGS: dict[str, EncodingName] = {name: name for name in get_args(EncodingName)}
_BATCH_ROWS, _BATCHES = 1 << 15, 32  # read at once; whose ids are compared at once
_ID = "image_id"
_GROUP_BYTES, _GROUP_ROWS = 1 << 24, 1 << 14  # of `rest`; Arrow ends a page after 20,000 rows


@dataclass(frozen=True)
class Origin:
    """Fingerprints of all that labels depend on: labels of another origin are of no use."""

    teacher: str
    preprocessing: str


@dataclass(frozen=True)
class Header:
    """The metadata of a shard, equal in all shards of a store."""

    origin: Origin
    num_classes: int
    encoding: EncodingName = "int8"
    precision: str = "fp32"
    k: int = NUM_TOP  # classes kept under `topk`

    @property
    def num_top(self) -> int:
        """T."""
        return min(self.k if self.encoding == "topk" else NUM_TOP, self.num_classes)


def label_table(
    ids: Sequence[str],
    logits: np.ndarray,
    header: Header,
    views: tuple[Sequence[int], Sequence[int]] | None = None,
) -> pa.Table:
    """Rows of a shard: float32 [N, C] `logits` of the images `ids`.

    `views` are (views, seeds), by default those of the test-time view. Tables of one header can be
    concatenated. The rows of an image had better be consecutive, its views ascending: the index of
    a store is then as long as it has images.

    Raises UserError: a logit is not a number.
    """
    bad = np.flatnonzero(np.isnan(logits).any(1))
    if len(bad):
        raise UserError(
            f"the teacher gives NaN for {len(bad):,} of {len(ids):,} images, the first: "
            f"{ids[bad[0]]}; its weights are damaged or not its own: check teacher.weights"
        )
    assert logits.shape == (len(ids), header.num_classes), f"{logits.shape} for {len(ids)} ids"
    view, seed = views or ([0] * len(ids), [0] * len(ids))
    columns = dict(encode(logits, header.encoding, header.num_top))
    columns["top_class"] = columns["top_class"].astype(_class_type(header.num_classes))
    arrays = {
        "image_id": pa.array(ids, pa.string()),
        "view": pa.array(view, pa.int32()),
        "seed": pa.array(seed, pa.int64()),
        **{name: _array(name, values) for name, values in columns.items()},
    }
    schema = _schema(header).with_metadata(_metadata(header))
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def write_labels(table: pa.Table, path: Path) -> None:
    """Write a `label_table`, so that its rows can be mapped."""
    header = _header(table.schema, path)
    raw = raw_columns(header.encoding)
    lists = ("top_class", "top_logprob")  # whose values Parquet names otherwise than the column
    leaves = {n: f"{n}.list.element" if n in lists else n for n in table.schema.names}
    compression = {leaf: "NONE" if name in raw else "ZSTD" for name, leaf in leaves.items()}
    repetitive = [leaf for name, leaf in leaves.items() if name not in (*raw, "entropy")]
    row_bytes = rest_bytes(header.encoding, header.num_classes) + 1
    pq.write_table(
        table,
        path,
        row_group_size=max(1, min(_GROUP_ROWS, _GROUP_BYTES // row_bytes)),
        compression=compression,  # pyright: ignore[reportArgumentType]
        use_dictionary=repetitive,  # pyright: ignore[reportArgumentType]
        data_page_size=1 << 30,  # no second page
        write_statistics=False,
        write_page_checksum=True,
    )


@dataclass(frozen=True)
class Shard:
    """An opened shard, its metadata read."""

    path: Path
    header: Header
    metadata: pq.FileMetaData

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its rows in order, 32,768 at a time, of these columns. Raises UserError: the file is
        damaged."""
        with (
            _readable(self.path),
            pq.ParquetFile(self.path, page_checksum_verification=True) as file,
        ):
            yield from file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False)


def open_shard(path: Path, origin: Origin | None = None) -> Shard:
    """The shard in `path`. Raises UserError: no shard of soft labels, a damaged one, or one of
    another `origin`."""
    with _readable(path), pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    header = _header(schema, path)
    for name in ("teacher", "preprocessing") if origin else ():
        got, want = getattr(header.origin, name), getattr(origin, name)
        if got != want:
            raise UserError(
                f"{path}: labelled with {name} {got[:12]}, expected {want[:12]}; "
                "run the label stage again"
            )
    if not schema.equals(_schema(header)):
        raise UserError(
            f"{path}: its columns are not those of soft labels of format {FORMAT}: "
            f"{', '.join(schema.names)}; run the label stage again"
        )
    return Shard(path, header, metadata)


def open_shards(*folders: Path, origin: Origin | None = None) -> list[Shard]:
    """All shards of the folders, by name. Raises UserError: a folder has none, or they are not of
    one header."""
    shards = [open_shard(path, origin) for folder in folders for path in _paths(folder)]
    for shard in shards:
        if shard.header != shards[0].header:
            raise UserError(
                f"{shard.path}: made otherwise than {shards[0].path.name}:\n{shard.header}\n"
                f"{shards[0].header}\nrun the label stage again"
            )
    return shards


def is_labelled(ids: pa.ChunkedArray, folder: Path) -> np.ndarray:
    """bool [N]: which of the images `ids` have a row in the shards of `folder`. One pass over their
    ids; no index is made, whose making takes a second a million rows and 100 bytes each."""
    found = np.zeros(len(ids), bool)
    rows = (batch for shard in open_shards(folder) for batch in shard.batches([_ID]))
    while part := list(islice(rows, _BATCHES)):
        known = pa.concat_arrays([batch[_ID] for batch in part])
        found |= pc.is_in(ids, known).to_numpy()
    return found


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that the label stage has written")
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        below = sorted({path.parent for path in folder.glob(f"*/{PATTERN}")})
        remedy = f"give one below, such as {below[-1]}" if below else "run the label stage first"
        raise UserError(f"{folder}: holds no soft labels ({PATTERN}); {remedy}")
    return paths


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as Parquet ({said}); run the label stage again"
        ) from error


def _header(schema: pa.Schema, path: Path) -> Header:
    metadata: dict[str, str] = {}
    try:
        metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        if metadata["format"] == FORMAT:
            return Header(
                Origin(metadata["teacher"], metadata["preprocessing"]),
                int(metadata["num_classes"]),
                _ENCODINGS[metadata["encoding"]],
                metadata["precision"],
                int(metadata["k"]),
            )
    except (KeyError, ValueError):
        pass
    raise UserError(
        f"{path}: expected soft labels of format {FORMAT}, got format "
        f"{metadata.get('format', 'unknown')}; run the label stage again"
    )


def _schema(header: Header) -> pa.Schema:
    """The schema of a shard, without metadata."""
    raw, rest = raw_columns(header.encoding), rest_bytes(header.encoding, header.num_classes)
    types = {
        "image_id": pa.string(),
        "view": pa.int32(),
        "seed": pa.int64(),
        "top_class": _list_type(
            pa.from_numpy_dtype(_class_type(header.num_classes)), header.num_top
        ),
        "top_logprob": _list_type(pa.float32(), header.num_top),
        "entropy": pa.float32(),
        "tail_high": pa.float32(),
        "tail_range": pa.float32(),
        "rest": pa.binary(rest or 1),
    }
    always = ("image_id", "view", "seed", "top_class", "entropy")
    columns = [(name, kind) for name, kind in types.items() if name in (*always, *raw)]
    return pa.schema([pa.field(*column, nullable=False) for column in columns])


def _metadata(header: Header) -> dict[str, str]:
    return {
        "format": FORMAT,
        **asdict(header.origin),
        "precision": header.precision,
        "encoding": header.encoding,
        "k": str(header.k),
        "num_classes": str(header.num_classes),
        "libraries": json.dumps(installed_versions(LIBRARIES)),
    }


def _class_type(num_classes: int) -> np.dtype:
    return np.dtype(np.uint16 if num_classes <= 1 << 16 else np.int32)


def _list_type(kind: pa.DataType, size: int) -> pa.FixedSizeListType:
    return pa.list_(pa.field("element", kind, nullable=False), size)


def _array(name: str, values: np.ndarray) -> pa.Array:
    """The column `name`: numbers [N], lists [N, T] or bytes [N, B]."""
    if name == "rest":
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.Array.from_buffers(pa.binary(values.shape[1]), len(values), buffers)
    flat = pa.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, type=_list_type(flat.type, values.shape[1]))
