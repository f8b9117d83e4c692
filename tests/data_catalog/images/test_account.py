"""Every file of a tree is a row, passed over or damaged, once; and all readers agree."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.catalog import load_dataset
from data_catalog.images.collect import collect, describe
from data_catalog.images.columns import Images
from data_catalog.images.identity import content_digest
from ppcls_core.inference.inputs import given_images

JPEG, PNG = b"\xff\xd8\xff\xe0" + b"j" * 40, b"\x89PNG\r\n\x1a\n" + b"p" * 40
NOTES = ("damaged_tar", "unreadable_folder")  # said of a tar or folder that is counted otherwise

NAMES = st.sampled_from(
    [
        b"a.jpg",
        b"B.JPEG",
        b"c.jfif",
        b"d.Png",
        b"photo",
        b"notes.txt",
        b".hidden.jpg",
        b"._a.jpg",
        b"\xb9\xb7.jpg",
        b"caf\xe9",
        b"new\nline.jpg",
        b"tab\t\x1b.png",
        b"sp ace 3.gif",
        b"x.tar",
        b"y.TAR",
        b"z.tar.gz",
    ]
)
FOLDERS = st.sampled_from([b"n01", b"n02", b"deep", b".git", b"\xff\xfe", b"k.jpg", b"t.tar"])


def tar_of(members: list[tuple[bytes, str, bytes]]) -> bytes:
    """A tar with members of these names and kinds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(os.fsdecode(name))
            if kind == "file":
                member.size = len(data)
            else:
                member.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}.get(
                    kind, tarfile.FIFOTYPE if kind == "fifo" else tarfile.DIRTYPE
                )
                member.linkname = os.fsdecode(data[:9] or b"x") if "l" in kind else "a.jpg"
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


BYTES = st.sampled_from([JPEG, PNG, b"", b"text", b"a.jpg", b"notes.txt"])
MEMBERS = st.lists(
    st.tuples(
        st.builds(lambda f, n: b"/".join([*f, n]), st.lists(FOLDERS, max_size=2), NAMES),
        st.sampled_from(["file", "file", "file", "link", "hard", "fifo", "dir"]),
        BYTES,
    ),
    max_size=6,
)
TARS = MEMBERS.map(tar_of)
NESTED = st.builds(
    lambda inner, members: tar_of([*members, (b"in/ner.tar", "file", inner)]), TARS, MEMBERS
)
BROKEN = st.builds(lambda data, at: data[: int(len(data) * at)], NESTED, st.floats(0, 1))
JOINED = st.builds(lambda a, b: a + b, TARS, NESTED)
CONTENT = st.one_of(BYTES, TARS, NESTED, BROKEN, JOINED)
ENTRIES = st.lists(
    st.tuples(
        st.lists(FOLDERS, max_size=3),
        NAMES,
        st.sampled_from(["file", "file", "file", "link", "hard", "fifo", "socket", "folder"]),
        CONTENT,
        st.integers(0, 99),
    ),
    max_size=12,
)


def grow(root: Path, entries: list) -> None:
    """Make the tree; what cannot be made where it should be is left out."""
    made = [os.fsencode(root), b"nowhere"]
    for folders, name, kind, content, pick in entries:
        folder = os.path.join(os.fsencode(root), *folders)
        path = os.path.join(folder, name)
        try:
            os.makedirs(folder, exist_ok=True)
            target = made[pick % len(made)]
            if os.path.lexists(path):
                continue
            if kind == "link":
                os.symlink(target, path)
            elif kind == "hard":
                os.link(target, path)
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as unix:
                    unix.bind(path)
            elif kind == "folder":
                os.mkdir(path)
            else:
                Path(os.fsdecode(path)).write_bytes(content)
        except OSError:
            continue
        made += [path, folder]


def num_found(root: Path) -> int:
    """Files that `find -L` sees; a folder in a circle is none of them."""
    command = ["find", "-L", root, "!", "-type", "d", "-printf", "x"]
    return len(subprocess.run(command, capture_output=True, check=False).stdout)


@settings(max_examples=120, deadline=None)
@given(ENTRIES)
def test_rows_and_passed_over_are_what_find_sees(tmp_path_factory, entries):
    root = tmp_path_factory.mktemp("t") / "pool"
    root.mkdir()
    grow(root, entries)
    try:
        images = collect(root, None)
    except UserError as error:
        assert "holds no image" in str(error)
        return
    members = sum(map(count_members, tarred(os.fsencode(root))))
    damaged = sum(row not in NOTES for row in images.damaged["reason"].to_pylist())
    over = sum(entry.count for entry in images.passed_over)
    assert len(images) + over + damaged == num_found(root) + members
    assert len(set(images.ids)) == len(images)
    assert describe(images)
    if len(images):
        check_readers(root, images)
    shutil.rmtree(root.parent)


def tarred(root: bytes) -> list[bytes]:
    """Contents of the tars that are read: each file once, nothing hidden."""
    found, seen_files, seen_folders = [], set(), set()

    def visit(folder: bytes) -> None:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen_folders:
            return
        seen_folders.add((status.st_dev, status.st_ino))
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.startswith(b"."):
                continue
            if os.path.isdir(path):
                visit(path)
            elif os.path.isfile(path) and os.path.realpath(path) not in seen_files:
                status = os.stat(path)
                data = Path(os.fsdecode(path)).read_bytes()
                if is_tar(os.path.basename(path), data) and (status.st_ino not in seen_files):
                    seen_files.add(status.st_ino)
                    found.append(data)

    visit(root)
    return found


def is_tar(name: bytes, data: bytes) -> bool:
    low = name.lower()
    images = (b".jpg", b".jpeg", b".jfif", b".png", b".gif", b".tar.gz")
    if low.endswith(images) or data.startswith((JPEG, PNG)):
        return False
    return low.endswith(b".tar") or data[257:262] == b"ustar"


def count_members(data: bytes) -> int:
    num = 0
    while True:
        start = len(data) - len(data.lstrip(b"\0"))
        data = data[start - start % 512 :]
        if not data.strip(b"\0"):
            return num
        end = 0
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for member in archive:
                    if member.offset >= len(data):
                        return num
                    num += not member.isdir()
                    inner = data[member.offset_data : member.offset_data + member.size]
                    name = os.fsencode(member.name)
                    parts = name.split(b"/")
                    hidden = any(part.startswith(b".") for part in parts)
                    if member.isreg() and not hidden and is_tar(parts[-1], inner):
                        num += count_members(inner)
                    if member.offset_data + member.size > len(data) and member.isreg():
                        return num
                end = archive.offset
        except tarfile.TarError:
            return num
        if data[end : end + 512].count(0) < 512:
            return num
        data = data[end:]


def check_readers(root: Path, images: Images) -> None:
    """The pipeline, `ppcls predict` and a second reading find the same."""
    (root.parent / "d.yaml").write_text("kind: files\nroot: .\npool: pool\n")
    dataset = load_dataset("d.yaml", {}, root.parent)
    pool = dataset.build(root.parent, lambda done, total: None).pool
    assert pool is not None
    assert list(pool.ids) == [f"pool/{name}" for name in images.ids]
    assert pool.table["content"].to_pylist() == images.table["content"].to_pylist()
    shown = [picture.name for picture in given_images([str(root)])]
    assert shown == [f"{root}/{name}" for name in images.ids]
    again = collect(root, None)
    assert content_digest(again) == content_digest(images)
