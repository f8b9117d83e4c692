"""Lists that name members of tars, as TAR/member: where in the tar each of them lies."""
# pyright: reportAttributeAccessIssue=false

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.images.columns import REJECTED, ROOT, SCHEMA, Images, one_dictionary
from data_catalog.images.folders import TarReader
from data_catalog.images.found import Found
from data_catalog.images.tars import TarImages

_MEMBER = r"(?s)^(?P<tar>.*?\.tar)/(?P<member>.+)$"


def with_members(found: Found, read_tar: TarReader) -> Found:
    """The list `found`, its rows that are no file but a member of a tar with the member's place.

    Each tar is read once, whatever the order of the lines. A row whose tar or member is not there
    stays as it was; what is damaged in a tar is added to the set's.
    """
    images = found.images
    rows = np.flatnonzero(images.table["size"].to_numpy() < 0)
    parts = pc.extract_regex(images.take(rows).table["image_id"], _MEMBER)
    is_member = pc.is_valid(parts).to_numpy()
    rows, parts = rows[is_member], parts.filter(pa.array(is_member))
    if not len(rows):
        return found
    tars = one_dictionary(pc.struct_field(parts, "tar").dictionary_encode())
    names, places = pc.struct_field(parts, "member"), _Places(images)
    order = np.argsort(tars.indices.to_numpy(), kind="stable")
    ends = np.cumsum(np.bincount(tars.indices.to_numpy(), minlength=len(tars.dictionary)))
    for number, (tar, end) in enumerate(zip(tars.dictionary.to_pylist(), ends, strict=True)):
        start = ends[number - 1] if number else 0
        path = Path(images.roots[ROOT], tar)
        if os.path.isfile(path):  # noqa: PTH113 - False too of a name that is too long
            chosen = order[start:end]
            places.fill(tar, rows[chosen], names.take(pa.array(chosen)), read_tar(path))
    return replace(found, images=places.filled())


class _Places:
    """The columns of `images` that say where an image lies, to be filled in for members."""

    def __init__(self, images: Images) -> None:
        self.images, num = images, len(images)
        self.sizes, self.offsets = images.table["size"].to_numpy().copy(), np.full(num, -1)
        self.contents, self.has_content = np.zeros(num, "V16"), np.zeros(num, bool)
        paths = one_dictionary(images.table["path"])
        self.tars, self.codes = paths.dictionary.to_pylist(), paths.indices.fill_null(-1).to_numpy()
        self.codes, self.damaged = self.codes.copy(), images.damaged.to_pylist()

    def fill(self, tar: str, rows: np.ndarray, names: pa.ChunkedArray, found: TarImages) -> None:
        """Fill in those of `rows` whose `names` the tar has."""
        members = found.table
        self.damaged += [
            {**damage._asdict(), "image_id": f"{tar}/{damage.image_id}".rstrip("/")}
            for damage in found.damaged
        ]
        at = pc.index_in(names, members["name"]).combine_chunks()
        rows, at = rows[at.is_valid().to_numpy(zero_copy_only=False)], at.drop_null().to_numpy()
        self.sizes[rows] = members["size"].to_numpy()[at]
        self.offsets[rows] = members["offset"].to_numpy()[at]
        contents = members["content"].take(pa.array(at)).combine_chunks()
        self.has_content[rows] = contents.is_valid().to_numpy(zero_copy_only=False)
        values = contents.fill_null(bytes(16)).to_pylist()
        self.contents[rows] = np.frombuffer(b"".join(values), "V16")
        self.codes[rows] = len(self.tars)
        self.tars.append(os.fsencode(tar))

    def filled(self) -> Images:
        """The set with what has been filled in."""
        valid = pa.py_buffer(np.packbits(self.has_content, bitorder="little"))
        raw = [valid, pa.py_buffer(self.contents)]
        columns = {
            "path": pa.DictionaryArray.from_arrays(
                pa.array(self.codes, pa.int32(), mask=self.codes < 0),
                pa.array(self.tars, pa.binary()),
            ),
            "offset": pa.array(self.offsets, mask=self.offsets < 0),
            "size": pa.array(self.sizes),
            "content": pa.Array.from_buffers(pa.binary(16), len(self.contents), raw),
        }
        table = self.images.table
        for name, column in columns.items():
            at = SCHEMA.get_field_index(name)
            table = table.set_column(at, SCHEMA.field(at), column)
        return replace(
            self.images, table=table, damaged=pa.Table.from_pylist(self.damaged, REJECTED)
        )
