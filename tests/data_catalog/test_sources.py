"""Data sets of files, through the settings that a user writes."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.catalog import load_dataset
from data_catalog.images.columns import write_images
from data_catalog.sources import Dataset, FilesConfig

SHARED = Path(os.environ.get("SSLD_SHARED", Path(__file__).parents[3] / "shared"))


def ignore(done, total):
    pass


@pytest.fixture
def root(tmp_path):
    """A data set of lists: two classes, six images of which `img/5.jpg` does not exist."""
    (tmp_path / "img").mkdir()
    for i in range(5):
        (tmp_path / f"img/{i}.jpg").write_bytes(b"x" * (i + 1))
    (tmp_path / "train.txt").write_text("img/0.jpg 0\nimg/1.jpg 1\n")
    (tmp_path / "val.txt").write_text("img/2.jpg 1\n")
    (tmp_path / "pool.txt").write_text("img/3.jpg\nimg/4.jpg 0\nimg/5.jpg\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "planted.csv").write_text("pool_image,val_image,transform\n3.jpg,2.jpg,crop\n")
    return tmp_path


LISTS = {"train": "train.txt", "val": "val.txt", "pool": "pool.txt"}
ALL = {**LISTS, "classes": "classes.txt", "planted": "planted.csv"}


def dataset(root, **splits):
    return Dataset("mine", FilesConfig(kind="files", root="-", **splits), root)


def build(root, **splits):
    return dataset(root, **splits).build(root / "out", ignore)


def mistake(root, **splits):
    with pytest.raises(UserError) as caught:
        build(root, **splits)
    return str(caught.value)


def test_lists(root):
    calls = []
    splits = dataset(root, **ALL).build(root / "out", lambda *call: calls.append(call))
    assert splits.train.ids == ["img/0.jpg", "img/1.jpg"]
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.train.classes == splits.val.classes == splits.pool.classes == ("cat", "dog")
    assert splits.pool.labels.tolist() == [-1, 0, -1]
    assert splits.pool.table["size"].to_pylist() == [4, 5, -1]
    assert splits.pool.source(0).read_bytes() == b"xxxx"
    assert splits.planted.to_pylist() == [
        {"pool_id": "img/3.jpg", "val_id": "img/2.jpg", "transform": "crop"}
    ]
    assert calls[-1] == (6, 6)
    assert not (root / "out").exists()


def test_a_teacher_may_have_images_of_its_own(root):
    (root / "teacher.txt").write_text("img/0.jpg 0\nimg/4.jpg 1\n")
    splits = build(root, **ALL, teacher="teacher.txt")
    assert splits.teacher.ids == ["img/0.jpg", "img/4.jpg"]
    assert splits.teacher.classes == ("cat", "dog")
    assert (
        dataset(root, **ALL).fingerprint()
        != dataset(root, **ALL, teacher="teacher.txt").fingerprint()
    )
    (root / "teacher.txt").write_text("img/0.jpg 2\n")
    assert "label 2 of 'img/0.jpg' is none of the 2 classes" in mistake(
        root, **ALL, teacher="teacher.txt"
    )


def test_a_split_may_be_absent(root):
    splits = build(root, pool="pool.txt")
    assert splits.train is splits.val is splits.planted is None
    assert splits.pool.classes == ()


def test_without_names_classes_are_numbers_of_the_training_split(root):
    assert build(root, train="train.txt", val="val.txt").val.classes == ("0", "1")
    (root / "val.txt").write_text("img/2.jpg 2\n")
    message = mistake(root, train="train.txt", val="val.txt")
    assert "val.txt:1: label 2" in message
    assert "the 2 classes of the training split (0 to 1)" in message


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_label_outside_the_classes(root, split, label):
    (root / f"{split}.txt").write_text(f"img/0.jpg 0\n\nimg/1.jpg {label}\n")
    message = mistake(root, **{**LISTS, "classes": "classes.txt"})
    assert f"{split}.txt:3: label {label} of 'img/1.jpg'" in message
    assert "2 classes of classes.txt" in message


def test_a_pools_labels_are_not_used(root):
    (root / "pool.txt").write_text("img/3.jpg 7\nimg/4.jpg -1\n")
    assert len(build(root, **LISTS).pool) == 2


@pytest.mark.parametrize("again", ["img//0.jpg", "img/./0.jpg", "img/../img/0.jpg"])
def test_one_file_by_two_spellings_is_named_twice(root, again):
    (root / "train.txt").write_text(f"img/0.jpg 0\n{again} 1\n")
    assert "train.txt:2: 'img/0.jpg' is also in line" in mistake(root, train="train.txt")


def test_typo_in_a_label_makes_no_million_classes(root):
    (root / "train.txt").write_text("img/0.jpg 0\nimg/1.jpg 10000000\n")
    assert "train.txt:2: label 10000000" in mistake(root, train="train.txt")


@pytest.mark.parametrize("split", ["train", "val"])
def test_label_missing(root, split):
    (root / f"{split}.txt").write_text("img/0.jpg 0\nimg/1.jpg\nimg/2.jpg\n")
    message = mistake(root, **LISTS)
    assert f"{split}.txt:2: 'img/1.jpg' has no label (2 of 3 lines lack one)" in message


def test_empty_list(root):
    (root / "pool.txt").write_text("\n")
    assert "pool.txt names no image; fill it or remove `pool`" in mistake(root, **LISTS)


def test_list_elsewhere(root):
    message = mistake(root, **{**LISTS, "val": "lists/val.txt"})
    assert f"no list file or folder or tar {root / 'lists/val.txt'}" in message
    assert "correct `val`" in message


def folders(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def test_folders(root):
    folders(root, "t/b/1.jpg", "t/a/2.jpg", "v/a/3.jpg", "v/b/4.jpg", "p/x/5.jpg", "p/6.jpg")
    splits = build(root, train="t", val="v", pool="p")
    assert splits.train.classes == ("a", "b")
    assert list(zip(splits.train.ids, splits.train.labels, strict=True)) == [
        ("t/a/2.jpg", 0),
        ("t/b/1.jpg", 1),
    ]
    assert splits.pool.ids == ["p/6.jpg", "p/x/5.jpg"]
    assert splits.pool.labels.tolist() == [-1, -1]


def test_class_folders_that_differ(root):
    folders(root, "t/b/1.jpg", "t/a/2.jpg", "v/a/3.jpg", "v/c/4.jpg")
    message = mistake(root, train="t", val="v")
    assert "only in val c, only in train b" in message
    (root / "classes.txt").write_text("a\nb\n")
    assert "only in val c, only in classes.txt none" in mistake(
        root, train="t", val="v", classes="classes.txt"
    )


def test_classes_file_sets_the_order_of_folders(root):
    folders(root, "t/cat/1.jpg", "t/dog/2.jpg")
    (root / "classes.txt").write_text("dog\nbird\ncat\n")
    splits = build(root, train="t", classes="classes.txt")
    assert splits.train.classes == ("dog", "bird", "cat")
    assert splits.train.labels.tolist() == [2, 0]


def test_class_folders_may_be_tars(root):
    folders(root, "t/b/1.jpg", "t/stray.jpg", "t/deep.txt", "t/a/x/2.jpg")
    with tarfile.open(root / "t/c.tar", "w") as archive:
        archive.add(root / "t/a/x/2.jpg", "3.jpg")
    with tarfile.open(root / "v.tar", "w") as archive:
        archive.add(root / "t/b/1.jpg", "a/4.jpg")
        archive.add(root / "t/b/1.jpg", "b/5.jpg")
        archive.add(root / "t/c.tar", "c.tar")
    splits = build(root, train="t", val="v.tar")
    assert splits.train.classes == ("a", "b", "c")
    assert dict(zip(splits.train.ids, splits.train.labels.tolist(), strict=True)) == {
        "t/a/x/2.jpg": 0,
        "t/b/1.jpg": 1,
        "t/c.tar/3.jpg": 2,
    }
    assert {entry.reason: entry.count for entry in splits.train.passed_over} == {
        "not_an_image": 1,
        "outside_classes": 1,
        "tar": 1,
    }
    assert splits.val.ids == ["v.tar/a/4.jpg", "v.tar/b/5.jpg", "v.tar/c.tar/3.jpg"]
    assert splits.val.labels.tolist() == [0, 1, 2]


def test_a_class_tar_that_cannot_be_read_renumbers_no_class(root):
    folders(root, "t/b/1.jpg", "t/d/2.jpg")
    with tarfile.open(root / "t" / "c.tar", "w:gz") as archive:
        archive.add(root / "t/b/1.jpg", "3.jpg")
    assert build(root, train="t").train.classes == ("b", "c", "d")
    (root / "t" / "c.tar").rename(root / "t" / "c.tar.gz")
    assert "'t/c.tar.gz' is compressed" in mistake(root, train="t")


def test_no_class_folders(root):
    folders(root, "t/1.jpg")
    assert "holds no class folders or class tars" in mistake(root, train="t")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=14, unique=True))
def test_numeric_class_folders_mean_those_numbers(tmp_path_factory, numbers):
    root = tmp_path_factory.mktemp("n")
    folders(root, *(f"t/{number}/{number}.jpg" for number in numbers))
    if sorted(numbers) != list(range(len(numbers))):
        assert "their labels are not known; number them so, or give" in mistake(root, train="t")
        return
    train = build(root, train="t").train
    assert train.ids == [f"t/{number}/{number}.jpg" for number in sorted(numbers, key=str)]
    assert train.labels.tolist() == sorted(numbers, key=str)


def test_numeric_folders_with_names_in_a_file(root):
    folders(root, "t/0/1.jpg", "t/1/2.jpg")
    splits = build(root, train="t", classes="classes.txt")
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 1]


LISTED = "t/cat/1.jpg {}\nt/dog/2.jpg {}\n"


@pytest.mark.parametrize(
    ("text", "splits", "words"),
    [
        (LISTED.format(1, 0), {"val": "t", "train": "l.txt"}, ["l.txt", "/t"]),
        (LISTED.format(1, 0), {"train": "l.txt", "classes": "classes.txt"}, ["l.txt", "classes.t"]),
        (LISTED.format(1, 0), {"train": "l.txt", "val": "m.txt"}, ["l.txt", "m.txt"]),
        (
            "img/1.jpg 0\nimg/2.jpg 1\n",
            {"train": "l.txt", "val": "t"},
            ["l.txt numbers", "/t names"],
        ),
    ],
)
def test_two_sources_that_disagree_are_both_named(root, text, splits, words):
    folders(root, "t/cat/1.jpg", "t/dog/2.jpg")
    (root / "l.txt").write_text(text)
    (root / "m.txt").write_text(LISTED.format(0, 1))
    message = mistake(root, **splits)
    assert all(word in message for word in words)


def test_sources_that_agree(root):
    folders(root, "t/cat/1.jpg", "t/dog/2.jpg")
    (root / "l.txt").write_text(LISTED.format(0, 1))
    splits = build(root, train="l.txt", val="t", classes="classes.txt")
    assert splits.train.labels.tolist() == splits.val.labels.tolist() == [0, 1]
    assert build(root, train="l.txt", val="t").val.classes == ("cat", "dog")


def test_equal_sizes_are_not_equal_images(root):
    before = dataset(root, **ALL).fingerprint()
    (root / "img/0.jpg").write_bytes(b"y")
    assert dataset(root, **ALL).fingerprint() != before


def test_a_copy_of_another_name_gives_the_same_files(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("copy") / "x"
    shutil.copytree(root, other)
    copied = Dataset("other", FilesConfig(kind="files", root="-", **ALL), other)
    assert copied.fingerprint() == dataset(root, **ALL).fingerprint()
    for name, splits in (("a", build(root, **ALL)), ("b", build(other, **ALL))):
        write_images(root / name, splits.pool)
    assert (root / "a").read_bytes() == (root / "b").read_bytes()


def test_fingerprint_is_the_same_elsewhere(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("moved") / "x"
    before = dataset(root, **ALL).fingerprint()
    assert dataset(root, **ALL).fingerprint() == before
    root.rename(other)
    assert dataset(other, **ALL).fingerprint() == before


CHANGES = {
    "a list's label": lambda r: (r / "val.txt").write_text("img/2.jpg 0\n"),
    "a list's order": lambda r: (r / "train.txt").write_text("img/1.jpg 1\nimg/0.jpg 0\n"),
    "one image more": lambda r: (r / "pool.txt").write_text("img/3.jpg\nimg/4.jpg 0\n"),
    "a file's size": lambda r: (r / "img/0.jpg").write_bytes(b"xx"),
    "a file gone": lambda r: (r / "img/0.jpg").unlink(),
    "a file come": lambda r: (r / "img/5.jpg").write_bytes(b"x"),
    "a class name": lambda r: (r / "classes.txt").write_text("cat\nfox\n"),
    "the truth": lambda r: (r / "planted.csv").write_text(
        "pool_image,val_image,transform\n4.jpg,2.jpg,crop\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with(root, change):
    before = dataset(root, **ALL).fingerprint()
    CHANGES[change](root)
    assert dataset(root, **ALL).fingerprint() != before


def test_fingerprint_of_folders_sees_new_files(root):
    folders(root, "t/a/1.jpg")
    before = dataset(root, train="t").fingerprint()
    folders(root, "t/a/2.jpg")
    assert dataset(root, train="t").fingerprint() != before


def test_a_truth_of_no_duplicates(root):
    (root / "planted.csv").write_text("pool_image,val_image,transform\n")
    assert len(build(root, **ALL).planted) == 0
    assert dataset(root, **ALL).fingerprint() != dataset(root, **LISTS).fingerprint()


def test_which_split_an_image_is_in_matters(root):
    one = dataset(root, pool="pool.txt").fingerprint()
    (root / "train.txt").write_text("img/0.jpg 0\n")
    (root / "val.txt").write_text("img/0.jpg 0\n")
    train = dataset(root, train="train.txt").fingerprint()
    assert len({one, train, dataset(root, val="val.txt").fingerprint()}) == 3


@pytest.mark.skipif(not (SHARED / "data/clothing").is_dir(), reason=f"no clothing in {SHARED}")
def test_clothing():
    clothing = load_dataset("clothing", {"root": str(SHARED / "data/clothing")}, Path())
    splits = clothing.build(Path("unused"), ignore)
    assert [len(s) for s in (splits.train, splits.val, splits.pool)] == [800, 372, 2709]
    assert len(splits.train.classes) == 10
    assert len(splits.planted) == 100
    assert set(splits.planted["pool_id"].to_pylist()) <= set(splits.pool.ids)
    assert set(splits.planted["val_id"].to_pylist()) <= set(splits.val.ids)
    assert all(path.is_file() for path in splits.val.sources())
