"""List files: `path label` a line, as PaddleClas has them."""
# pyright: reportAttributeAccessIssue=false

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.images.columns import PART, ROOT, SCHEMA, Images, file_table
from data_catalog.images.formats import HEAD, kind_of_bytes, text_of
from data_catalog.images.found import Count, Found, states

_MISSPELT = {  # patterns of paths that are not there, and what to do
    r"""^(".*"|'.*')$""": "write paths without quotes: blanks in them do no harm",
    r"[,;|]$": "write the label after a blank alone (or set `delimiter` to what stands before it)",
}


def read_list(  # noqa: PLR0913 - of a reader, and of lists alone
    source: Path,
    root: Path,
    count: Count,
    delimiter: str | None = None,
    *,
    strict: bool = True,
    data: bytes | None = None,
) -> Found:
    """The images of a list file, whose paths are relative to `root`.

    A line is `path` or `path label`: the label is the last word if that is a whole number, or with
    a `delimiter` what follows the last of these. Paths are bytes, whatever the encoding of the
    list; a byte-order mark and the line ends of Windows are no part of them. Every line is a row,
    of size -1 where there is no such file. `data` is the list's content where it was read before.

    Raises UserError: not a text file, or, if `strict`, an absolute path, one that stands there
    twice, or one that is not there and in quotes or before a comma.
    """
    content = pa.memory_map(str(source)).read_buffer() if data is None else data
    paths, labels, lines = _parse(content, source, delimiter)
    if strict:
        _check_relative(paths, source, lines)
        _check_repeated(paths, source, lines)
    sizes, changed = np.empty((2, len(paths)), np.int64)
    start = 0
    for part, found in states(root, _each(paths), is_list=True):
        rows = slice(start, start := start + len(part))
        sizes[rows], changed[rows] = zip(*(state[:2] for state in found), strict=True)
        count(len(part))
    if strict:
        _check_spelt(paths.filter(pa.array(sizes < 0)), source)
    tables, start = [SCHEMA.empty_table()], 0
    for chunk, label in zip(paths.chunks, labels.chunks, strict=True):
        tables.append(file_table(chunk, sizes[start : start + len(chunk)], label=label))
        start += len(chunk)
    images = Images(pa.concat_tables(tables), {ROOT: str(root.absolute())})
    return Found(source, images, changed, lines)


def _parse(
    data: bytes | pa.Buffer, source: Path, delimiter: str | None
) -> tuple[pa.ChunkedArray, pa.ChunkedArray, np.ndarray]:
    """(paths as bytes, labels or null, line numbers); blank lines are skipped and counted."""
    head = pa.py_buffer(data).slice(0, min(HEAD, len(data))).to_pybytes()
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{source}: is a list in UTF-16; save it as UTF-8")
    if b"\0" in head or kind_of_bytes(head) != "not_an_image":
        raise UserError(f"{source}: is not a list in text; expected `path` or `path label` a line")
    paths, labels, lines, start = [], [], [], 1
    pattern = _pattern(delimiter)
    for text in _lines(data, source):
        found = pc.extract_regex(text, pattern)
        path = pc.replace_substring_regex(pc.struct_field(found, "path"), rb"^(\./)+".decode(), "")
        filled = pc.and_(pc.is_valid(found), pc.greater(pc.binary_length(path), 0))
        number = pc.struct_field(found, "label")
        number = pc.if_else(pc.equal(pc.binary_length(number), 0), None, number)
        paths.append(path.filter(filled))
        labels.append(number.filter(filled).cast(pa.string()).cast(pa.int32()))
        numbers = np.flatnonzero(filled.to_numpy(zero_copy_only=False)) + start
        lines.append(numbers.astype(np.int32))
        start += len(text)
    every = np.concatenate([np.empty(0, np.int32), *lines])
    return pa.chunked_array(paths, pa.binary()), pa.chunked_array(labels, pa.int32()), every


def _lines(data: bytes | pa.Buffer, source: Path) -> Iterator[pa.Array]:
    """Lines of a text as bytes, parsed by Arrow on all cores."""
    if not len(data):
        return
    options = arrow_csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False)
    columns = arrow_csv.ConvertOptions(column_types={"line": pa.binary()})
    names = arrow_csv.ReadOptions(column_names=["line"])
    try:
        with arrow_csv.open_csv(pa.BufferReader(data), names, options, columns) as reader:
            for batch in reader:
                yield batch["line"]
    except pa.ArrowInvalid as error:
        raise UserError(f"{source}: is not a list in text ({error}); give another file") from error


def _pattern(delimiter: str | None) -> str:
    """A line's parts; what is no line of the kind `path label` is a path as a whole."""
    between = r"\s+" if delimiter is None else rf"\s*{re.escape(delimiter)}\s*"
    return rf"^\s*(?P<path>\S|\S.*?\S)(?:{between}(?P<label>-?[0-9]{{1,9}}))?\s*$"


def _each(paths: pa.ChunkedArray) -> Iterator[bytes]:
    for chunk in paths.chunks:
        for start in range(0, len(chunk), PART):
            yield from chunk.slice(start, PART).to_pylist()


def _check_relative(paths: pa.ChunkedArray, source: Path, lines: np.ndarray) -> None:
    for row in np.flatnonzero(pc.starts_with(paths, "/").to_numpy())[:1].tolist():
        raise UserError(
            f"{source}:{lines[row]}: got the absolute path '{text_of(paths[row].as_py())}', "
            "expected one relative to the data set's root; shorten the paths of this list and set "
            "`root`"
        )


def _check_spelt(missing: pa.ChunkedArray, source: Path) -> None:
    """Refuse paths that are not there, but perhaps without their quotes or last character."""
    for pattern, remedy in _MISSPELT.items():
        wrong = missing.filter(pc.match_substring_regex(missing, pattern))
        for path in wrong.slice(0, 1).to_pylist():
            raise UserError(
                f"{source}: there is no {text_of(path)} ({counted(len(wrong), 'such line')}); "
                f"{remedy}"
            )


def label_hint(line: str, delimiter: str | None, key: str) -> str:
    """Why the `line` of a list may have no label, and what to do, as the end of a sentence.

    `key` is what the user calls the setting `delimiter`, which has this value; empty: there is
    none.
    """
    found = re.search(r"([,;|:]|\s)\s*[0-9]+$", line)
    words = line.split()
    if line[-1:] in "\"'":
        return "; write paths and labels without quotes"
    if delimiter and delimiter.startswith("\\"):
        return f"; `{key}` is a backslash and a letter; leave it out: any white space serves"
    if found and found[1].isspace():
        told = f"; white space stands before the number, not '{delimiter}': leave `{key}` out"
        return told if delimiter else ""
    if found:
        remedy = f"""set `{key}: "{found[1]}"` for it""" if key else "write a blank there"
        return f"; '{found[1]}' stands before the number: {remedy}"
    if len(words) > 1 and re.fullmatch(r"[^./]+", words[-1]):
        return f"; '{words[-1]}' is no label, which is a whole number from 0 on"
    return ""


def _check_repeated(paths: pa.ChunkedArray, source: Path, lines: np.ndarray) -> None:
    """Refuse a path that stands there twice; 8 bytes a path are held."""
    if pc.any(pc.match_substring_regex(paths, r"//|(^|/)\.\.?/")).as_py():  # `a//b` is `a/b`
        paths = pa.chunked_array([list(map(os.path.normpath, _each(paths)))], pa.binary())
    hashes = np.fromiter(map(hash, _each(paths)), np.int64, len(paths))
    in_order = np.sort(hashes)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    suspects = np.flatnonzero(np.isin(hashes, again)) if len(again) else again
    seen: dict[bytes, int] = {}
    for row in suspects.tolist():
        path = paths[row].as_py()
        if path in seen:
            raise UserError(
                f"{source}:{lines[row]}: '{text_of(path)}' is also in line "
                f"{source}:{lines[seen[path]]}; keep one"
            )
        seen[path] = row
