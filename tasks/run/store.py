"""The store of results: STORE/<stage>/<key>/, where a manifest is written last.

A stage is done when its manifest is there and every file it lists is as it was. Nothing else
counts: neither Prefect's states nor any other record.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from data_catalog.base.config import UserError
from data_catalog.base.files import (
    LockHeld,
    digest_of,
    is_locked,
    link_to,
    locked,
    read_json,
    sha256_file,
    write_json,
)
from data_catalog.recipes import MANIFEST, last_keys, last_keys_file, result_folder, store_root

PROGRESS = "progress.json"
LATEST = {"export": "model", "report": "report"}  # stages that a recipe has a link to
RUN = "run.json"  # of a report: settings, and each stage's key, counts and seconds


@dataclass(frozen=True)
class FileEntry:
    """A file of a stage. `volatile` files are no part of the stage's digest: they hold times, or
    are pages to be looked at, whose wording may change."""

    size: int
    sha256: str
    mtime_ns: int
    volatile: bool = False


@dataclass(frozen=True)
class Result:
    """A finished stage, as its manifest says; `directory` is where it lies on this machine."""

    stage: str
    version: int
    key: str
    directory: Path
    settings: dict[str, Any]
    inputs: dict[str, str]  # "stage/pattern" -> digest
    files: dict[str, FileEntry]
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)  # seconds, versions, what was read ...

    @property
    def digest(self) -> str:
        """Identity of what the stage made: equal results have equal digests, whenever made."""
        return digest_of([self.stage, *self._lasting("*")])

    def digest_of(self, pattern: str) -> str:
        """Digest over the lasting files whose path matches `pattern`.

        None at all is a result too where it has a wildcard: a stage may have had nothing to do.
        """
        files = self._lasting(pattern)
        assert files or "*" in pattern, f"{self.stage} makes no file {pattern}"
        return digest_of(files)

    def _lasting(self, pattern: str) -> list[list[str]]:
        """[path, sha256] of the matching files that are no mere record of times."""
        lasting = (name for name, entry in self.files.items() if not entry.volatile)
        return [[n, self.files[n].sha256] for n in sorted(lasting) if fnmatch(n, pattern)]

    @property
    def is_empty(self) -> bool:
        """Whether it was given no image, as `views` where no teacher is replayed."""
        return self.counts.get("in") == 0

    def path(self, name: str) -> Path:
        """A file of the stage."""
        return self.directory / name

    def damages(self, deep: bool = False) -> Iterator[str]:
        """A sentence about each file that is not as the manifest says.

        A file whose size and modification time are as recorded is believed; one whose time differs,
        or every one with `deep`, is read and its sha256 compared.
        """
        for name, entry in self.files.items():
            try:
                stat = self.path(name).stat()
            except OSError:
                yield f"{name} is missing"
                continue
            if stat.st_size != entry.size:
                yield f"{name} has {stat.st_size:,} bytes instead of {entry.size:,}"
                continue
            unread = stat.st_mtime_ns == entry.mtime_ns and not deep
            if not unread and sha256_file(self.path(name)) != entry.sha256:
                yield f"{name} was altered"


@dataclass(frozen=True)
class Store:
    """The folder that holds every stage's results."""

    root: Path

    @staticmethod
    def default() -> Store:
        """That of this machine, at `store_root`."""
        return Store(store_root())

    def is_full(self) -> bool:
        """Whether its disk has no megabyte left."""
        return shutil.disk_usage(self.root).free < 1 << 20

    def directory(self, stage: str, key: str) -> Path:
        """The folder of the result of `stage` under `key`, which need not exist."""
        return result_folder(self.root, stage, key)

    def load(self, stage: str, key: str) -> Result | None:
        """The result of `stage` under `key`, its files unchecked; None when it is not finished."""
        result = read_result(self.directory(stage, key))
        return result if result and result.key == key else None

    def results(self, stage: str = "*") -> Iterator[Result]:
        """Every finished result of a stage, by default of all, its files unchecked."""
        for path in sorted(self.root.glob(f"{stage}/*/{MANIFEST}")):
            if result := read_result(path.parent):
                yield result

    def commit(self, result: Result) -> None:
        """Write the manifest, which makes the stage done."""
        data = asdict(result) | {"digest": result.digest}
        del data["directory"]
        write_json(result.directory / MANIFEST, data)

    def tidy(self, result: Result) -> None:
        """Remove what a finished stage needs no more: checkpoint, progress, temporary files."""
        for path in result.directory.rglob("*"):
            name = str(path.relative_to(result.directory))
            if path.is_file() and name not in result.files and name != MANIFEST:
                path.unlink()

    def progress(self, stage: str, key: str) -> dict[str, Any] | None:
        """{done, total, unit, seconds} of an unfinished stage, or None."""
        return read_json(self.directory(stage, key) / PROGRESS)

    def last(self, recipe: str) -> dict[str, str]:
        """Key of the last finished run of each stage for the recipe of this name."""
        return last_keys(self.root, recipe)

    def remember(self, recipe: str, stage: str, key: str) -> None:
        """Record `key` as the last finished run of `stage` for the recipe of this name."""
        if (last := self.last(recipe)).get(stage) != key:
            write_json(last_keys_file(self.root, recipe), last | {stage: key})
        if stage in LATEST:
            link_to(self.latest(recipe, stage), self.directory(stage, key))

    def latest(self, recipe: str, stage: str) -> Path:
        """The link to the last finished run of a stage of LATEST for the recipe of this name."""
        return self.root / "latest" / recipe / LATEST[stage]

    def discard(self, stage: str, key: str) -> None:
        """Remove a result, its manifest first, so that a kill leaves it unfinished, not damaged."""
        directory = self.directory(stage, key)
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def lock(self, stage: str, key: str) -> Generator[None]:
        """Keep other processes off this key until we die. Raises UserError: one holds it."""
        try:
            with locked(self._lock(stage, key)):
                yield
        except LockHeld as holder:
            raise UserError(
                f"stage {stage} of the same settings is being run by process {holder}; wait for it "
                "or cancel it, then run again"
            ) from None

    def is_running(self, stage: str, key: str) -> bool:
        """Whether a process has `lock`, as far as this machine knows."""
        return is_locked(self._lock(stage, key))

    def _lock(self, stage: str, key: str) -> Path:
        return self.root / "locks" / f"{stage}-{key[:20]}"


def read_result(directory: Path) -> Result | None:
    """The finished result whose manifest lies in `directory`; None where there is none."""
    data = read_json(directory / MANIFEST)
    try:
        files = {name: FileEntry(**entry) for name, entry in data.pop("files").items()}
        del data["digest"]
        return Result(directory=directory, files=files, **data)
    except (AttributeError, KeyError, TypeError):  # of another program, or another version of it
        return None


def file_entry(path: Path, volatile: bool) -> FileEntry:
    """The entry of a file as it lies."""
    stat = path.stat()
    return FileEntry(stat.st_size, sha256_file(path), stat.st_mtime_ns, volatile)
