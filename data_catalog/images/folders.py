"""The images of a folder or a tar: one walk, which accounts for every file that it meets."""
# pyright: reportAttributeAccessIssue=false

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.base.threads import map_threads
from data_catalog.images.columns import (
    NUM_EXAMPLES,
    REJECTED,
    ROOT,
    SCHEMA,
    Images,
    Tally,
    file_table,
    image_table,
    repeated,
)
from data_catalog.images.formats import text_of
from data_catalog.images.found import WORKERS, Count, FileState, Found, states
from data_catalog.images.tars import UNPACK, Damage, TarImages

TarReader = Callable[[Path], TarImages]
Folder = tuple[int, int]  # device and inode
MERGED = 32


def read_folder(folder: Path, root: Path, read_tar: TarReader, count: Count) -> Found:
    """The images under `folder`, those of tars among them; ids are relative to `root`.

    Order: by name, the files of a folder before its folders; then what lies behind linked folders;
    then linked files. A file with several names is one row: its own name wins over a link's, and
    of several the first. See `columns.PassedOver` for what is no row.
    """
    walk = _Walk(os.fsencode(root), os.fsencode(os.path.relpath(folder, root)), Tally())
    files = _Files(walk)
    for paths in (walk.files(), (path for path in walk.links)):
        for part in states(root, paths, is_list=False):
            count(files.take(*part))
    images, changed = _assemble(files, root, read_tar, count)
    tops = tuple(sorted(map(text_of, walk.tops)))
    return Found(folder, images, changed, None, tops)


def read_archive(path: Path, root: Path, read_tar: TarReader, count: Count) -> Found:
    """The images of the tar `path`, whose ids are TAR/member, TAR being relative to `root`."""
    top, found = os.fsencode(os.path.relpath(path, root)), read_tar(path)
    walk = _Walk(os.fsencode(root), top, Tally())
    count(len(found.table))
    images = walk.images([walk.members(top, found)])
    return Found(path, images, np.zeros(len(images), np.int64), None, found.tops)


@dataclass
class _Walk:
    """Through the tree `top`: `files` gives its files and leaves the linked ones in `links`."""

    root: bytes
    top: bytes
    tally: Tally
    damaged: list[Damage] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)
    tops: list[bytes] = field(default_factory=list)
    _seen: set[Folder] = field(default_factory=set)

    def files(self) -> Iterator[bytes]:
        """Paths of the regular files under `top`, then those behind linked folders."""
        stack, linked = [self.top], deque[bytes]()
        while stack or linked:
            folder = stack.pop() if stack else linked.popleft()
            identity, folders = self._identity(folder), []
            if identity in self._seen:
                self._pass_folder("same_folder", folder)
                continue
            self._seen.add(identity)
            for entry in self._entries(folder):
                path, is_folder = _join(folder, entry.name), entry.is_dir()
                if entry.name.startswith(b"."):
                    self._hide(path, is_folder)
                    continue
                if is_folder and folder == self.top:
                    self.tops.append(entry.name)
                if entry.is_symlink():
                    (linked if is_folder else self.links).append(path)
                elif is_folder:
                    folders.append(path)
                else:
                    yield path
            stack += reversed(folders)

    def members(self, tar: bytes, found: TarImages) -> pa.Table:
        """Rows of SCHEMA of the images in the tar with that path; the rest of it is counted."""
        name, members = text_of(tar), found.table
        self.tally.add_all(found.passed_over, name + "/")
        for image_id, *why in found.damaged:
            self.damaged.append(Damage(f"{name}/{image_id}" if image_id else name, *why))
        ids = pc.binary_join_element_wise(pa.scalar(name + "/"), members["name"], "")
        place = {"offset": members["offset"], "content": members["content"]}
        return image_table(ids, members["size"], path=repeated(tar, len(members)), **place)

    def images(self, tables: list[pa.Table]) -> Images:
        """A set of these rows, with all that was passed over."""
        table = pa.concat_tables([SCHEMA.empty_table(), *tables])
        rows = [damage._asdict() for damage in self.damaged]
        damaged = pa.Table.from_pylist(rows, REJECTED).sort_by("image_id")
        roots = {ROOT: str(Path(os.fsdecode(self.root)).absolute())}
        images = Images(table, roots, (), self.tally.result(), damaged)
        _check_unique(images)
        return images

    def _entries(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(_join(self.root, folder)) as found:
                return sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            detail = f"{error.strerror}; its files are not counted"
            self.damaged.append(Damage(text_of(folder), "unreadable_folder", detail))
            return []

    def _hide(self, path: bytes, is_folder: bool) -> None:
        if is_folder:
            self._pass_folder("hidden", path)
        else:
            self.tally.add("hidden", [text_of(path)])

    def _pass_folder(self, reason: str, folder: bytes) -> None:
        """Count the files of a folder, links followed but for those that lead back up."""
        above, parent = set(), folder
        while parent != self.top:
            parent = os.path.dirname(parent) or b"."  # noqa: PTH120 - bytes
            above.add(self._identity(parent))
        self.tally.add(reason, [text_of(folder) + "/"], self._num_files(folder, above))

    def _num_files(self, folder: bytes, above: set[Folder]) -> int:
        identity = self._identity(folder)
        if identity in above:
            return 0
        inner, num = above | {identity}, 0
        for entry in self._entries(folder):
            inside = entry.is_dir()
            num += self._num_files(_join(folder, entry.name), inner) if inside else 1
        return num

    def _identity(self, folder: bytes) -> Folder:
        status = os.stat(_join(self.root, folder))  # noqa: PTH116 - bytes
        return status.st_dev, status.st_ino


def _join(folder: bytes, name: bytes) -> bytes:
    return name if folder == b"." else folder + b"/" + name


class _Files:
    """The images and tars of a walk; `tars`: path of a tar by its row.

    `states` (int64 [rows, 4]) are the first fields of FileState; `is_linked`: a file has two names.
    """

    def __init__(self, walk: _Walk) -> None:
        self.walk, self.tars, self.num, self.is_linked = walk, dict[int, bytes](), 0, False
        self.paths, self.states = list[pa.Array](), [np.empty((0, 4), np.int64)]

    def take(self, paths: list[bytes], found: list[FileState]) -> int:
        """Append the images and tars among these files, and count the others; how many images."""
        kept, num_tars = [], len(self.tars)
        for path, state in zip(paths, found, strict=True):
            if state.reason == "compressed_tar":
                self.walk.damaged.append(Damage(text_of(path), state.reason, UNPACK))
            elif state.reason not in ("", "tar"):
                self.walk.tally.add(state.reason, [text_of(path)])
            else:
                if state.reason == "tar":
                    self._take_tar(path, self.num + len(kept))
                kept.append((path, state[:4]))
                self.is_linked |= state.num_names > 1
        if kept:
            names, numbers = zip(*kept, strict=True)
            self.states.append(np.array(numbers, np.int64))
            self.paths.append(pa.array(names, pa.binary()))
        self.num += len(kept)
        return len(kept) - (len(self.tars) - num_tars)

    def _take_tar(self, path: bytes, row: int) -> None:
        self.tars[row] = path
        name = path.rpartition(b"/")[2]
        if path == _join(self.walk.top, name):
            self.walk.tops.append(name)

    def _table(self, sizes: np.ndarray) -> pa.Table:
        """The rows, MERGED batches a chunk: a slice takes time for each chunk ahead of it."""
        tables, start = [SCHEMA.empty_table()], 0
        while self.paths:
            paths = pa.concat_arrays(self.paths[:MERGED])
            del self.paths[:MERGED]
            tables.append(file_table(paths, sizes[start : start + len(paths)]))
            start += len(paths)
        return pa.concat_tables(tables)

    def one_name_each(self) -> tuple[pa.Table, np.ndarray, dict[int, bytes]]:
        """(rows, times of change, tars) without further names of a file, which are counted."""
        states, self.states = self.states, []  # 32 bytes a file, which are not held any longer
        sizes, changed = (np.concatenate([part[:, i] for part in states]) for i in (0, 1))
        table = self._table(sizes)
        if not self.walk.links and not self.is_linked:
            return table, changed, self.tars
        identity = np.concatenate([part[:, 2:] for part in states])
        _, first, group = np.unique(identity, axis=0, return_index=True, return_inverse=True)
        first = first[group.ravel()]  # by row: the first row of the same file
        others = (first < np.arange(self.num)) & (sizes >= 0)
        rows = np.flatnonzero(others)
        if len(rows):
            shown = [table["image_id"].take(at[:NUM_EXAMPLES]) for at in (rows, first[rows])]
            names = zip(*(part.to_pylist() for part in shown), strict=True)
            self.walk.tally.add("same_file", [f"{a} = {b}" for a, b in names], len(rows))
        tars = {
            at - int(np.searchsorted(rows, at)): name
            for at, name in self.tars.items()
            if not others[at]
        }
        return table.filter(pa.array(~others)), changed[~others], tars


def _assemble(
    files: _Files, root: Path, read_tar: TarReader, count: Count
) -> tuple[Images, np.ndarray]:
    """(images, times of change): the rows of files, and at the place of each tar those in it."""
    table, changes, tars = files.one_name_each()
    tables, changed, start = [], [], 0
    found_tars = map_threads(lambda tar: read_tar(root / os.fsdecode(tar)), tars.values(), WORKERS)
    for (stop, name), found in zip(tars.items(), found_tars, strict=True):
        tables += [table.slice(start, stop - start), files.walk.members(name, found)]
        changed += [changes[start:stop], np.zeros(len(found.table), np.int64)]
        files.walk.tally.add("tar", [text_of(name)])
        count(len(found.table))
        start = stop + 1
    tables.append(table.slice(start))
    changed.append(changes[start:])
    return files.walk.images(tables), np.concatenate(changed)


def _check_unique(images: Images) -> None:
    """Refuse a written-out name that another file has as it is."""
    ids = images.table["image_id"]
    written = ids.filter(pc.match_substring(ids, "\\x")).value_counts()
    for value in written.filter(pc.greater(written.field("counts"), 1)).field("values")[:1]:
        raise UserError(
            f"{images.roots[ROOT]}: '{value}' is there twice, once for bytes that are not UTF-8; "
            "rename or remove one"
        )
