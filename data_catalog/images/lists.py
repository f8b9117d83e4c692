"""How files on disk say what they show: PaddleClas lists, folders of class folders, class names."""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError, closest
from data_catalog.images.manifest import Manifest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
PLANTED = ("pool_image", "val_image", "transform")
PLANTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("pool_id", "val_id", "transform")])
BATCH = 16384  # paths held as Python strings at a time: 14 M at once would take gigabytes


@dataclass(frozen=True)
class Rows:
    """A split as read: `paths` (string) and `labels` (int32, null where unknown).

    `lines` (int64 [rows], counted from 1) is where the rows stand in `source`, None for a folder.
    """

    source: Path
    paths: pa.ChunkedArray
    labels: pa.ChunkedArray
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.source}:{self.lines[row]}" if self.lines is not None else str(self.source)


def read_list(path: Path) -> Rows:
    """Rows of a list file: `path label` a line; the label is the last word if a whole number.

    Raises:
        UserError: not UTF-8 text, an absolute path, or a path that stands there twice.
    """
    text = _read_lines(path)
    filled = pc.not_equal(text, "")
    lines = np.flatnonzero(filled.to_numpy()) + 1
    text = text.filter(filled)
    parts = pc.extract_regex(text, r"^(?P<path>.*\S)\s+(?P<label>[+-]?[0-9]{1,9})$")
    paths = pc.coalesce(pc.struct_field(parts, "path"), text)
    labels = pc.struct_field(parts, "label").cast(pa.int32())
    rows = Rows(path, pc.replace_substring_regex(paths, r"^(\./)+", ""), labels, lines)
    for row in np.flatnonzero(pc.starts_with(rows.paths, "/").to_numpy())[:1]:
        raise UserError(
            f"{rows.at(int(row))}: got the absolute path '{rows.paths[int(row)]}', expected one "
            "relative to the data set's root; shorten the paths of this list and set `root`"
        )
    if pc.count_distinct(rows.paths).as_py() < len(rows):
        raise UserError(_repeated(rows))
    return rows


def _read_lines(path: Path) -> pa.ChunkedArray:
    """Lines of a text file without surrounding white space: parsed by Arrow on all cores."""
    from pyarrow import csv as arrow_csv

    if not path.stat().st_size:
        return pa.chunked_array([], pa.string())
    options = arrow_csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False)
    try:
        table = arrow_csv.read_csv(
            path,
            arrow_csv.ReadOptions(column_names=["line"]),
            options,
            arrow_csv.ConvertOptions(column_types={"line": pa.string()}),
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a list in UTF-8 text ({error}); give another file") from error
    return pc.utf8_trim_whitespace(table["line"])


def _repeated(rows: Rows) -> str:
    seen: dict[str, int] = {}
    for row, path in enumerate(rows.paths.to_pylist()):
        if path in seen:
            return f"{rows.at(row)}: '{path}' stands also in line {rows.at(seen[path])}; keep one"
        seen[path] = row
    raise AssertionError("no path is repeated")


def class_folders(folder: Path) -> tuple[str, ...]:
    """Sorted names of the class folders in `folder`."""
    found = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return tuple(sorted(name for name in found if not name.startswith(".")))


def read_folder(folder: Path, root: Path, classes: Sequence[str] | None) -> Rows:
    """Rows of the images under `folder`, sorted; paths are relative to `root`.

    The label is the position in `classes` of the class folder that an image lies in, at any depth;
    without `classes` it is unknown.
    """
    labels = {name: label for label, name in enumerate(classes or ())}
    tops = [(folder / name, labels[name]) for name in class_folders(folder)] if classes else []
    paths: list[pa.Array] = []
    numbers: list[pa.Array] = []
    for top, label in tops or [(folder, None)]:
        found = _images(str(top), str(root))
        while batch := list(islice(found, BATCH)):
            paths.append(pa.array(batch, pa.string()))
            numbers.append(pa.array([label] * len(batch), pa.int32()))
    return Rows(folder, pa.chunked_array(paths, pa.string()), pa.chunked_array(numbers, pa.int32()))


def _images(folder: str, root: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(parent, root)
        prefix = "" if relative == "." else f"{relative}/"
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield prefix + name


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of a file with one a line, or `index name` lines numbered from 0.

    Raises:
        UserError: no such file, no names, a blank line before one, or the same name twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: class names cannot be read ({error}); correct it") from error
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:  # without it those that follow would be other classes
        raise UserError(
            f"{path}:{names.index('') + 1}: is blank; name the class, or remove the line"
        )
    parts = [name.split(maxsplit=1) for name in names]
    if all(len(p) == 2 and p[0] == str(i) for i, p in enumerate(parts)):
        names = [name for _, name in parts]
    if not names:
        raise UserError(f"{path}: holds no class name; expected one a line")
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if first.setdefault(name, label) != label:
            raise UserError(
                f"{path}: classes {first[name]} and {label} are both named '{name}'; rename one"
            )
    return tuple(names)


def file_sizes(root: Path, paths: pa.ChunkedArray, tick: Callable[[int], None]) -> pa.ChunkedArray:
    """Size in bytes of each file, -1 where there is none; `tick(n)` after every n files."""
    base = f"{root}/"

    def sizes(start: int) -> np.ndarray:
        names = paths.slice(start, BATCH).to_pylist()
        return np.fromiter((_size(base + name) for name in names), np.int64, len(names))

    chunks = []
    # Threads wait for a network disk side by side; BATCH starts keep the order.
    threads = ThreadPoolExecutor(8)
    try:
        for chunk in threads.map(sizes, range(0, len(paths), BATCH)):
            chunks.append(pa.array(chunk))
            tick(len(chunk))
    finally:
        threads.shutdown(cancel_futures=True)
    return pa.chunked_array(chunks, pa.int64())


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return -1


def read_planted(path: Path, pool: Manifest, val: Manifest) -> pa.Table:
    """Truth of planted duplicates from a csv file with the columns PLANTED, as PLANTED_SCHEMA.

    Raises:
        UserError: other columns, or an image that is neither an id nor a unique file name there.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, records = reader.fieldnames, list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: planted duplicates cannot be read ({error})") from error
    if set(columns or ()) != set(PLANTED):
        raise UserError(f"{path}: got columns {columns}, expected {','.join(PLANTED)}")
    pool_names, val_names, transforms = ([r[name] or "" for r in records] for name in PLANTED)
    ids = [_ids(path, pool_names, pool, "pool"), _ids(path, val_names, val, "val")]
    return pa.table([*ids, transforms], schema=PLANTED_SCHEMA)


def _ids(path: Path, names: list[str], manifest: Manifest, split: str) -> list[str]:
    """The image ids that `names`, ids or unique file names, stand for."""
    column = manifest.table["image_id"]
    wanted = pa.array(sorted(set(names)), pa.string())
    known = set(column.filter(pc.is_in(column, wanted)).to_pylist())
    file_names = pc.replace_substring_regex(column, r"^.*/", "")
    hits = pc.is_in(file_names, wanted)
    by_name: dict[str, list[str]] = {}
    for name, image_id in zip(_strings(file_names, hits), _strings(column, hits), strict=True):
        by_name.setdefault(name, []).append(image_id)
    found = []
    for number, name in enumerate(names, start=2):
        ids = [name] if name in known else by_name.get(name, [])
        if len(ids) != 1:
            got = f"stands for {len(ids)} images" if ids else "is not there"
            raise UserError(
                f"{path}:{number}: '{name}' {got} in the {split} split; give the path that its "
                f"list gives{closest(name, by_name)}"
            )
        found += ids
    return found


def _strings(column: pa.ChunkedArray, mask: pa.ChunkedArray) -> Iterable[str]:
    return column.filter(mask).to_pylist()
