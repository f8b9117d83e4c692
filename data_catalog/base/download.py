"""Files from the network: resumed where they broke off, checked, kept, and never half there."""

import base64
import errno
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from data_catalog.base.config import UserError
from data_catalog.base.files import locked, read_json, sha256_file, user_folder, write_json

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_ATTEMPTS = 3  # each goes on where the last broke off


def weights_folder() -> Path:
    """Where downloaded weights are kept: `$SSLD_HOME/weights`, by default in the user's cache."""
    if home := os.environ.get("SSLD_HOME"):
        return Path(home).absolute() / "weights"
    return user_folder("XDG_CACHE_HOME", ".cache") / "weights"


def kept_file(url: str, folder: Path) -> Path:
    """Where `download` keeps the file."""
    return folder / Path(urlsplit(url).path).name


def download(url: str, folder: Path, check: Callable[[Path], object]) -> Path:
    """The file at `url`, kept in `folder` under its own name; nothing is fetched when it is there.

    What arrived before an interruption is kept as `NAME.part` and completed by the next call, as
    long as the server says that its file is the same. The length is compared with the server's, the
    MD5 too where the server tells it, and `check` has to accept the file before it is kept. The
    sha256 is noted in `NAME.json`, and a kept file that no longer has it is refused. Several
    processes may ask for one file: one downloads. `check` reads a file and raises UserError where
    it is not what is wanted.

    Raises UserError: no connection, an answer other than the file, a file cut short or altered, or
    no room for it.
    """
    path = kept_file(url, folder)
    part = path.with_name(path.name + ".part")
    try:
        with locked(path.with_name(f".{path.name}.lock"), wait=True):
            if path.exists():
                _check_kept(path)
                return path
            _fetch_whole(url, part, path)
            try:
                check(part)
            except UserError as error:
                _drop(part)
                raise UserError(f"{url} gave something else: {error}") from error
            write_json(_note_of(path), {"url": url, "sha256": sha256_file(part)})
            part.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return path


def _unwritable(path: Path, reason: object) -> UserError:
    return UserError(
        f"{path}: cannot be written ({reason}); what has arrived is kept: free space there, or "
        "choose another folder (SSLD_HOME, or -p of `ppcls download`)"
    )


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _check_kept(path: Path) -> None:
    note = read_json(_note_of(path))
    if isinstance(note, dict) and note.get("sha256") != sha256_file(path):
        raise UserError(
            f"{path}: its content has changed since it was downloaded (sha256 differs from the one "
            f"in {_note_of(path).name}); delete it to download it again, or delete the note to "
            "keep the file"
        )


def _fetch_whole(url: str, part: Path, path: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _fetch(url, part)
            break
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise _unwritable(part, error.strerror) from error
            reason = str(getattr(error, "reason", None) or error)  # no reference: it holds a socket
            if isinstance(error, urllib.error.HTTPError):
                reason = f"the server answers {error.code}"
            elif attempt < _ATTEMPTS:
                continue
            raise UserError(
                f"cannot download {url} ({reason}); try again, which goes on from what has "
                f"arrived, or fetch it elsewhere and put it at {path}"
            ) from error


def _fetch(url: str, part: Path) -> None:
    """Complete `part` from where it ends, or from the start where the server has another file."""
    note = _note_of(part)
    start = part.stat().st_size if part.exists() else 0
    known = read_json(note) if start else None
    headers = {"User-Agent": "ssld"}
    if isinstance(known, dict) and "tag" in known:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["tag"]}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _drop(part)  # longer than the server's file: not a part of it
        raise OSError("the partial file does not fit and was removed") from error
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            _drop(part)
            raise OSError("the server goes on from another place than asked for")
        start = start if resumed else 0
        follows = response.headers.get("Content-Length")
        total = start + int(follows) if follows and follows.isdecimal() else None
        if tag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            write_json(note, {"tag": tag})
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise _unwritable(part, f"{total - start:,} bytes to come, {free:,} free")
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, f"{part.stem} from {urlsplit(url).hostname}", (start, total))
        _check(part, total, None if resumed else response.headers.get("Content-MD5"))
    note.unlink(missing_ok=True)


def _drop(part: Path) -> None:
    part.unlink()
    _note_of(part).unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO, what: str, progress: tuple[int, int | None]) -> None:
    """Copy all of `source` and show it; `progress` is (bytes there already, bytes in all)."""
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"downloading {what}", completed=progress[0], total=progress[1])
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            bar.update(task, advance=len(chunk))
        target.flush()
        os.fsync(target.fileno())


def _check(part: Path, total: int | None, md5: str | None) -> None:
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"cut short: got {size:,} of {total:,} bytes")
    if md5 is None:
        return
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
    if md5 not in (digest.hex(), base64.b64encode(digest).decode()):
        _drop(part)
        raise OSError("the content does not have the MD5 that the server tells")
