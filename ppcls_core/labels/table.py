"""Outputs of a teacher that were computed elsewhere: a Parquet or CSV file, one row an image.

    image_id    text: as in the data set's images, the path relative to its root (of an image
                within a tar TAR/member); ascending by its UTF-8 bytes, each once
    <class>     a number for each class, in a column of the class's name, in any order
or, in Parquet alone, one column of lists in place of those, of any name: a number a class, in the
order of the classes.

`import_labels` copies such a file, checked, into one of the second kind: `image_id` and float32
`logits`. A piece of a file at a time is held, in both directions, so that memory does not grow with
the number of rows.
"""

import csv
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from data_catalog.base.config import UserError
from data_catalog.base.files import atomic_path
from data_catalog.base.words import counted
from ppcls_core.labels.config import BadRow, LabelFileConfig, as_logits, class_order, read_names

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

ID, LOGITS = "image_id", "logits"
_PIECE = 1 << 19  # numbers read and written at a time: 2 MB of float32
_BLOCK = 1 << 22  # bytes of a CSV, and at most of a row of it
_BUFFER = 1 << 16  # bytes of a column that Parquet reads ahead; else all of a row group


def import_labels(config: LabelFileConfig, classes: Sequence[str], target: Path) -> int:
    """Copy the file `config.labels`, its classes in the order of the data's `classes`.

    Returns the number of its rows.

    Raises UserError: the file cannot be read, or is not as the top of this module says; the row,
    counted from 1 without the header, and the remedy are in the message.
    """
    path = Path(config.labels)
    schema = pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False),
            pa.field(LOGITS, pa.list_(pa.float32(), len(classes)), nullable=False),
        ]
    )
    done = 0
    with (
        atomic_path(target) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False, write_statistics=True
        ) as writer,
        _readable(path),
    ):
        for ids, logits in _checked(path, config, classes):
            flat = pa.array(logits.reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(LOGITS).type)
            writer.write_table(pa.table([ids, lists], schema=schema))
            done += len(ids)
    return done


def check_beginning(config: LabelFileConfig, classes: Sequence[str]) -> None:
    """Raise UserError as `import_labels` would of the file's columns and its first piece, which
    takes no time however long the file is."""
    path = Path(config.labels)
    with _readable(path), closing(_checked(path, config, classes)) as pieces:
        next(pieces)


def _checked(
    path: Path, config: LabelFileConfig, classes: Sequence[str]
) -> Generator[tuple[pa.Array, np.ndarray]]:
    """(image ids, float32 [N, C] logits in the order of `classes`) a piece at a time."""
    done, last = 0, None
    for batch, order in _batches(path, config, classes):
        ids = batch.column(ID).cast(pa.string())
        try:
            _check_ids(ids, last)
            logits = as_logits(_values(batch, len(order))[:, order], config.outputs)
        except BadRow as bad:
            name = ids[bad.row].as_py()
            raise UserError(f"{path}: row {done + bad.row + 1} ({name}) {bad}") from None
        yield ids, logits
        done, last = done + len(ids), ids[-1].as_py()
    if not done:
        raise UserError(f"{path}: has no row; expected one an image")


def _batches(
    path: Path, config: LabelFileConfig, classes: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, list[int]]]:
    """(rows of the file, position of each of `classes` among its columns) a piece at a time."""
    is_csv = path.suffix.lower() == ".csv"
    schema = _csv_schema(path) if is_csv else pq.read_schema(path)
    if schema.names.count(ID) != 1:
        raise UserError(f"{path}: expected one column {ID}, got the columns {schema.names[:9]}")
    others = [field for field in schema if field.name != ID]
    theirs: Sequence[str] = [field.name for field in others]
    if len(others) == 1 and pa.types.is_nested(others[0].type):
        theirs = read_names(Path(config.classes)) if config.classes else classes
    order = list(class_order(theirs, classes, str(path)))
    rows = max(1, _PIECE // len(classes))
    if is_csv:
        reading = arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False)
        converting = arrow_csv.ConvertOptions(column_types=schema)
        with arrow_csv.open_csv(path, reading, convert_options=converting) as reader:
            yield from ((batch, order) for batch in reader if len(batch))
        return
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        batches = file.iter_batches(rows, use_threads=False)
        yield from ((batch, order) for batch in batches if len(batch))


def _csv_schema(path: Path) -> pa.Schema:
    """Columns named in the first line: image ids, and numbers."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader([file.readline(_BLOCK)]), [])
    return pa.schema([(name, pa.string() if name == ID else pa.float32()) for name in names])


def _values(batch: pa.RecordBatch, num_classes: int) -> np.ndarray:
    """float32 [N, `num_classes`]; NaN where there is no number."""
    columns = [batch.column(n) for n, name in enumerate(batch.schema.names) if name != ID]
    if not pa.types.is_nested(columns[0].type):
        arrays = [column.cast(pa.float32()) for column in columns]
        return np.stack([array.to_numpy(zero_copy_only=False) for array in arrays], 1)
    lengths = pc.fill_null(pc.list_value_length(columns[0]), 0).to_numpy()
    for row in np.flatnonzero(lengths != num_classes)[:1].tolist():
        raise BadRow(
            row, f"has {counted(lengths[row], 'number')}, expected one for each of {num_classes}"
        )
    flat = pc.list_flatten(columns[0]).cast(pa.float32())
    return flat.to_numpy(zero_copy_only=False).reshape(-1, num_classes)


def _check_ids(ids: pa.Array, last: str | None) -> None:
    """Raise BadRow unless each of `ids` comes after the one before it, the first after `last`."""
    for row in np.flatnonzero(pc.is_null(ids).to_numpy(zero_copy_only=False))[:1].tolist():
        raise BadRow(row, f"has no {ID}: give it one, or remove the row")
    before = pa.concat_arrays([pa.array([last], pa.string()), ids[:-1]])  # less than null is null
    wrong = pc.fill_null(pc.less_equal(ids, before), False)
    for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False))[:1].tolist():
        if ids[row] == before[row]:
            raise BadRow(row, f"has the {ID} of the row before it: keep one of them")
        raise BadRow(
            row,
            f"comes after '{before[row]}': sort the rows by the UTF-8 bytes of {ID}, as "
            f"pyarrow.parquet.read_table(FILE).sort_by('{ID}') does",
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read as Parquet or CSV ({said}); write it again"
        ) from None


@dataclass(frozen=True)
class LabelRows:
    """The rows of a file that `import_labels` has written, found by image id."""

    path: Path

    def find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [N, C] logits of `ids`, bool [N]: whether the file has them).

        Each piece of the file that holds one of them is read once.
        """
        pieces = np.array([bisect_right(self._firsts, image_id) - 1 for image_id in ids])
        width = self._file.schema_arrow.field(LOGITS).type.list_size
        logits, found = np.zeros((len(ids), width), np.float32), np.zeros(len(ids), bool)
        wanted = pa.array(ids, pa.string())
        for piece in np.unique(pieces[pieces >= 0]).tolist():
            table = self._file.read_row_group(piece, use_threads=False).combine_chunks()
            asked = np.flatnonzero(pieces == piece)
            rows = pc.index_in(wanted.take(pa.array(asked)), table[ID])
            there = asked[rows.is_valid().to_numpy(zero_copy_only=False)]
            stored = pc.list_flatten(table[LOGITS]).to_numpy().reshape(-1, width)
            logits[there], found[there] = stored[rows.drop_null().to_numpy()], True
        return logits, found

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path)

    @cached_property
    def _firsts(self) -> list[str]:
        """First image id of each piece, a row group."""
        metadata = self._file.metadata
        groups = (metadata.row_group(n).column(0) for n in range(metadata.num_row_groups))
        return [group.statistics.min for group in groups]
