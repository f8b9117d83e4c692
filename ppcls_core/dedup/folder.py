"""The folder of a search that `ppcls dedup` was asked for: nothing else's, and one search's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.files import LockHeld, digest_of, locked, read_json, write_json
from ppcls_core.dedup.match.index import FORMAT
from ppcls_core.dedup.search import Search

CLAIM, LOCK = "search.json", ".lock"


def check_given(out: Path, given: Sequence[Path]) -> None:
    """Refuse a result's folder that lies in what is searched, or that holds other files, and a set
    that is searched against itself. `given`: the pool, and what it is searched against."""
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: no folder, list file or tar there; correct the path")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out}: lies in {path}, which is searched; take another folder")
    if len(given) > 1 and given[0].resolve() == given[1].resolve():
        raise UserError(f"{given[0]}: is searched against itself; use --within for that")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give the name of a folder")
    inside = {path.name for path in out.iterdir() if path.name != LOCK} if out.exists() else set()
    if inside and CLAIM not in inside:
        raise UserError(f"{out}: holds other files; take a new folder")


@contextmanager
def claimed(search: Search, given: Sequence[Path], note: Callable[[str], None]) -> Iterator[None]:
    """Hold `search.out` for this search alone; `note` says what becomes of an earlier one there.

    A search of the same images, wherever they lie, and settings is gone on with. One whose images
    have other contents than when `given` was searched before is done anew.

    Raises:
        UserError: another process writes there, or the work of another search lies there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(search.out / LOCK))
        except LockHeld as holder:
            raise UserError(
                f"{search.out}: another search, process {holder}, writes there; wait or take "
                "another"
            ) from None
        except OSError as error:
            raise UserError(
                f"{search.out}: cannot be written ({error.strerror}); take another"
            ) from error
        _claim(search, [str(path.absolute()) for path in given], note)
        for temporary in search.out.rglob(".tmp-*"):  # what a killed search was writing
            temporary.unlink()
        yield


def _claim(search: Search, given: list[str], note: Callable[[str], None]) -> None:
    settings = digest_of([FORMAT, search.shard_size, search.config.model_dump(mode="json")])
    claim = {"settings": settings, "images": list(search.digests), "given": given}
    record = search.out / CLAIM
    earlier = read_json(record)
    if isinstance(earlier, dict):
        same = {name for name in claim if earlier.get(name) == claim[name]}
        if "settings" not in same or not same & {"images", "given"}:
            raise UserError(
                f"{search.out}: holds a search with other images or settings; remove it or take "
                "another"
            )
        if "images" not in same:
            note("the images have changed since they were searched: they are searched anew")
            _clear(search.out)
    write_json(record, claim)


def _clear(out: Path) -> None:
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
