"""flowers102 from its three files, here a small set of the same form."""

import io
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from data_catalog import flowers102
from data_catalog.base.config import UserError, load_yaml
from data_catalog.flowers102 import SOURCES, prepare

NUM_CLASSES, NUM_IMAGES = 102, 102 * 4
JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
LABELS = np.arange(NUM_IMAGES) % NUM_CLASSES + 1
IDS = np.arange(1, NUM_IMAGES + 1)
SETS = {"trnid": IDS[:102][::-1], "valid": IDS[102:204], "tstid": IDS[204:]}


def write_archive(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(JPEG)
            tar.addfile(info, io.BytesIO(JPEG))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flowers102")
    write_archive(folder / "102flowers.tgz", [f"jpg/image_{n:05}.jpg" for n in IDS])
    # As MATLAB has them: one row, uint8 and uint16.
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": LABELS[None].astype(np.uint8)})
    scipy.io.savemat(
        folder / "setid.mat", {key: ids[None].astype(np.uint16) for key, ids in SETS.items()}
    )
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "set")


def test_lists_of_the_splits_with_labels_from_0(folder):
    assert prepare(folder, print) == {"train": 102, "val": 102, "extra": 204, "train_extra": 306}
    train = (folder / "train_list.txt").read_text().splitlines()
    assert (train[0], train[-1]) == ("jpg/image_00102.jpg 101", "jpg/image_00001.jpg 0")
    extra = (folder / "extra_list.txt").read_text()
    assert (folder / "train_extra_list.txt").read_text() == "\n".join([*train, extra])
    assert all((folder / line.split()[0]).is_file() for line in extra.splitlines())


def test_a_second_call_unpacks_nothing(folder):
    prepare(folder, print)
    lines: list[str] = []
    assert prepare(folder, lines.append)["train"] == 102
    assert not lines


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("imagelabels.mat", b"<html>", "expected a MATLAB file with whole numbers `labels`"),
        ("setid.mat", b"", "expected a MATLAB file with whole numbers `trnid`"),
        ("102flowers.tgz", b"<html>", "expected a tar with a folder jpg"),
    ],
)
def test_a_damaged_file_is_named(folder, file, content, message):
    (folder / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        prepare(folder, print)
    assert f"{folder / file}: {message}" in str(caught.value)
    assert not (folder / "jpg").exists()
    assert not list(folder.glob("*_list.txt"))


@pytest.mark.parametrize(
    ("key", "ids", "message"),
    [
        ("valid", [NUM_IMAGES + 1], "names images that imagelabels.mat, with 408 labels, does not"),
        ("valid", [0], "names images that"),
        ("valid", [1], "an image is in two of trnid, valid, tstid"),
        ("valid", [[0.5]], "expected a MATLAB file with whole numbers `valid`"),
    ],
)
def test_sets_that_do_not_fit_the_labels(folder, key, ids, message):
    scipy.io.savemat(folder / "setid.mat", {**SETS, key: ids})
    with pytest.raises(UserError, match=message):
        prepare(folder, print)


def test_images_that_are_not_there_are_told(folder):
    write_archive(folder / "102flowers.tgz", ["jpg/image_00001.jpg"])
    with pytest.raises(UserError, match="407 of 408 images are not there, such as jpg/image_00002"):
        prepare(folder, print)


def test_what_is_not_there_is_downloaded_and_its_md5_compared(folder, made, monkeypatch):
    asked = []

    def fetch(url: str, to: Path, check) -> Path:
        asked.append(url)
        path = to / url.rpartition("/")[2]
        shutil.copy(made / path.name, path)
        with pytest.raises(UserError, match="its MD5 is not"):
            check(path)  # is not Oxford's
        return path

    monkeypatch.setattr(flowers102, "download", fetch)
    (folder / "setid.mat").unlink()
    prepare(folder, print)
    assert asked == [load_yaml(SOURCES)["setid.mat"][0]]
