"""Files that are whole or absent: atomic writes, digests, canonical JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from data_catalog.base.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, synced and renamed to `path` when the block ends well.

    On an error the temporary file is removed and `path` stays as it was. A kill leaves at most the
    temporary file, whose name starts with `.tmp-`, so no reader mistakes it for a result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this process: two hosts that share the folder may have equal process ids.
    temporary = path.with_name(f".tmp-{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # of the folder: the new name outlives a loss of power too
    finally:
        os.close(descriptor)


class LockHeld(Exception):
    """Another process has the lock; the text is its id, or empty when it is not known."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of such a block; the kernel releases the lock when this one dies.

    The lock file `path` stays, and holds the id of the process. Raises LockHeld: another process
    has the lock, unless `wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No "soft" lock where the file system has none of the kernel's: it would outlive a kill.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise LockHeld(path.read_text().strip()) from None
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process has the lock `path`. It is not taken to find out, which would keep off a
    process that begins now. False too where the kernel does not list its locks."""
    try:
        inode, held = path.stat().st_ino, Path("/proc/locks").read_text()
    except OSError:
        return False
    return re.search(rf":{inode} \d+ \S+$", held, re.M) is not None


def link_to(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, atomically; a file system without links does without."""
    relative = os.path.relpath(target, link.parent)
    with suppress(OSError):
        if link.is_symlink() and link.readlink() == Path(relative):
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".tmp-{os.getpid()}-{link.name}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(relative)
        temporary.replace(link)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path` atomically as Parquet."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write `rows` to `path` atomically as `csv_bytes`."""
    write_bytes(path, csv_bytes(names, rows))


def csv_bytes(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """`rows` as CSV in UTF-8 under a header of `names`; None is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(path: Path) -> Any:
    """Value of the JSON file `path`, or None when it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of key order and white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of the content of `path`, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_folder(variable: str, below_home: str) -> Path:
    """The folder `ssld` for files of a kind (XDG's base directories): in `$variable`, by default in
    `below_home` of the user's. Raises UserError: no home folder is known."""
    try:
        base = os.environ.get(variable) or Path.home() / below_home
    except RuntimeError as error:  # no HOME, and a user whom the machine does not know
        raise UserError("no folder of yours is known: HOME is unset; set SSLD_HOME") from error
    return Path(base) / "ssld"
