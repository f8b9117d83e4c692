"""Flowers102 (Nilsback and Zisserman 2008), 102 kinds of flowers, laid out as PaddleClas wants it.

    jpg/image_00001.jpg ...    train_list.txt, val_list.txt, extra_list.txt, train_extra_list.txt

The lists are the authors' splits `trnid`, `valid` and `tstid`, labels from 0; train_extra is train,
then extra. They are made of three files, which are downloaded unless they lie in the folder.
"""

import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from data_catalog.base.config import UserError, load_yaml
from data_catalog.base.download import download
from data_catalog.base.files import write_bytes
from data_catalog.base.words import counted

SPLITS = {"train": "trnid", "val": "valid", "extra": "tstid"}
SOURCES = Path(__file__).with_name("flowers102.yaml")  # by file its address and MD5
_NO_NUMBERS = (
    KeyError,
    OSError,
    TypeError,
    ValueError,
    NotImplementedError,
    MatReadError,
    zlib.error,
)
IMAGES, LABELS, SETS = "102flowers.tgz", "imagelabels.mat", "setid.mat"


def prepare(folder: Path, log: Callable[[str], None]) -> dict[str, int]:
    """Make images and lists in `folder`; the number of images of each list. What is done is kept.

    Raises UserError: a file neither lies there nor can be downloaded, is damaged, or the three do
    not belong together.
    """
    files = {name: _get(folder, name) for name in (IMAGES, LABELS, SETS)}
    labels = _numbers(files[LABELS], "labels")
    sets = {split: _numbers(files[SETS], key) for split, key in SPLITS.items()}
    _check(folder, labels, sets)
    if not (folder / "jpg").is_dir():
        log(f"unpacking {files[IMAGES]}")
        _unpack(files[IMAGES], folder)
    _check_images(folder, len(labels))
    lists = {split: _lines(ids, labels) for split, ids in sets.items()}
    lists["train_extra"] = lists["train"] + lists["extra"]
    for split, lines in lists.items():
        write_bytes(folder / f"{split}_list.txt", "".join(lines).encode())
    return {split: len(lines) for split, lines in lists.items()}


def _get(folder: Path, name: str) -> Path:
    url, md5 = load_yaml(SOURCES)[name]

    def check(part: Path) -> None:
        with part.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise UserError(f"its MD5 is not {md5}")

    path = folder / name
    return path if path.is_file() else download(url, folder, check)


def _numbers(path: Path, key: str) -> np.ndarray:
    """The whole numbers int64 [N] under `key` of a MATLAB file."""
    try:
        found = scipy.io.loadmat(path)[key]
        numbers = np.asarray(found).astype(np.int64, casting="same_kind").ravel()
    except _NO_NUMBERS as error:
        raise UserError(
            f"{path}: expected a MATLAB file with whole numbers `{key}` ({error}); delete it to "
            "download it again"
        ) from error
    return numbers


def _check(folder: Path, labels: np.ndarray, sets: dict[str, np.ndarray]) -> None:
    every = np.concatenate(list(sets.values()))
    if len(labels) == 0 or labels.min() < 1:
        raise UserError(f"{folder / LABELS}: expected labels from 1 on")
    if len(every) == 0 or every.min() < 1 or every.max() > len(labels):
        raise UserError(
            f"{folder / SETS}: names images that {LABELS}, with {counted(len(labels), 'label')}, "
            "does not know; both have to be of one data set"
        )
    if len(np.unique(every)) != len(every):
        raise UserError(f"{folder / SETS}: an image is in two of {', '.join(SPLITS.values())}")


def _unpack(archive: Path, folder: Path) -> None:
    """The folder jpg of `archive`, whole or not there."""
    temporary = folder / ".tmp-unpacked"
    shutil.rmtree(temporary, ignore_errors=True)  # of an interruption
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        (temporary / "jpg").replace(folder / "jpg")
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise UserError(
            f"{archive}: expected a tar with a folder jpg ({error}); delete it to download it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _image(number: int) -> str:
    return f"jpg/image_{number:05}.jpg"


def _check_images(folder: Path, number: int) -> None:
    missing = [n for n in map(_image, range(1, number + 1)) if not (folder / n).is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing):,} of {number:,} images are not there, such as "
            f"{missing[0]}; delete {folder / 'jpg'} to have them unpacked again"
        )


def _lines(ids: np.ndarray, labels: np.ndarray) -> list[str]:
    return [f"{_image(number)} {labels[number - 1] - 1}\n" for number in ids.tolist()]
