"""`ssld init` accounts for every image, mixes no copies between splits, and writes what runs."""

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from data_catalog.images.columns import loose_images
from tasks.recipe import load_recipe
from tasks.stages.data import checked_data, datasets
from tasks.start.files import NAMES, files_of, write
from tasks.start.photos import IN_SEVERAL, Photos, inspect, inspect_pool
from tasks.start.recipe import SIZES, Size, recipe_name, recipe_text
from tests.support.images import write_jpeg


def quiet(done: int, total: int) -> None:
    """No progress is shown."""


def folder_of(root: Path, classes: dict[str, int], first: int = 0) -> Path:
    """`root` with so many JPEGs in a folder a class, all different."""
    seed = first
    for name, num in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(num):
            write_jpeg(root / name / f"IMG {number}.JPG", seed, 80, 90)
            seed += 1
    return root


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Three classes, one of 3 images, with CJK names, blanks, damage, copies and other files."""
    root = folder_of(tmp_path / "my 照片", {"猫": 12, "a dog": 10, "rare": 3})
    (root / "猫" / "deep er").mkdir()
    shutil.move(root / "猫" / "IMG 0.JPG", root / "猫" / "deep er" / "图 0.jpeg")
    shutil.copy(root / "猫" / "IMG 1.JPG", root / "a dog" / "wrong.png")
    shutil.copy(root / "a dog" / "IMG 1.JPG", root / "a dog" / "again.jpg")
    (root / "a dog" / "empty.jpg").touch()
    (root / "a dog" / "cut.jpg").write_bytes((root / "a dog" / "IMG 2.JPG").read_bytes()[:-60])
    (root / "a dog" / "notes.PDF").write_bytes(b"%PDF-1.4")
    (root / "a dog" / "line\nbreak.jpg").write_bytes((root / "猫" / "IMG 3.JPG").read_bytes())
    write_jpeg(root / "loose.jpg", 99, 80, 90)
    return root


def made(folder: Path, where: Path) -> Photos:
    return again(folder, where)[0]


def again(folder: Path, where: Path) -> tuple[Photos, list[str]]:
    """The photographs as `ssld init` finds them, and what it says has changed."""
    files = files_of(folder, where)
    found = inspect(folder, None, quiet, files.list_of("val"))
    return found, write(found, None, files)


def test_every_image_is_in_a_split_or_left_out_with_a_reason(messy: Path, tmp_path: Path) -> None:
    found = made(messy, tmp_path)
    assert all(
        (found.split[row] == "") == (row in found.left_out) for row in range(len(found.split))
    )
    assert found.per_class("train").tolist() == [8, 2, 9]  # a dog, rare, 猫
    assert found.per_class("val").tolist() == [2, 1, 2]
    assert {reason: len(rows) for reason, rows in found.reasons().items()} == {
        "lies in several classes": 2,
        "is a copy": 1,
        "cannot be read (empty)": 1,
        "cannot be read (truncated)": 1,
        "has a name that no list can hold": 1,
        "lies in no class folder": 1,
    }
    assert found.num_photographs(found.reasons()[IN_SEVERAL]) == 1
    with (tmp_path / "my_data" / "left_out.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found.left_out)
    assert any("notes.PDF" in note for note in found.notes)


@pytest.mark.parametrize("inside", ["", "train", "photos"])
def test_a_folder_without_an_image_is_told(tmp_path: Path, inside: str) -> None:
    root = folder_of(tmp_path / inside, {"cat": 4, "dog": 4})
    for name in ("bird", "pool", ".cache"):
        (root / name).mkdir()
    found = inspect(tmp_path, None, quiet)
    assert found.classes == ("cat", "dog")
    assert "no image lies in bird, pool" in found.notes


def test_what_is_written_is_a_recipe_of_the_same_images(messy: Path, tmp_path: Path) -> None:
    found = made(messy, tmp_path)
    recipe = load_recipe(str(tmp_path / "my.yaml"))
    labelled, pool = datasets(recipe)
    assert labelled is pool
    splits = labelled.build(tmp_path, quiet)
    assert splits.train and splits.val and splits.pool
    assert splits.train.classes == found.classes == ("a dog", "rare", "猫")
    for name, images in (("train", splits.train), ("val", splits.val)):
        rows = found.rows(name)
        assert list(images.ids) == [found.images.ids[row] for row in rows]
        assert images.labels.tolist() == found.label[rows].tolist()
    train, val = (set(s.table["content"].to_pylist()) for s in (splits.train, splits.val))
    assert None not in train and not train & val


def test_the_split_is_of_contents_not_of_names(messy: Path, tmp_path: Path) -> None:
    first = inspect(messy, None, quiet)
    (messy / "猫" / "IMG 5.JPG").rename(messy / "猫" / "Z.jpg")
    second = inspect(messy.rename(tmp_path / "other"), None, quiet)
    contents = [
        {f.images.table["content"][row].as_py() for row in f.rows("val").tolist()}
        for f in (first, second)
    ]
    assert contents[0] == contents[1]


def test_again_says_what_has_changed_and_keeps_edits_and_val(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my", {"a": 10, "b": 10})
    before, told = again(root, tmp_path)
    assert told == []
    assert again(root, tmp_path)[1] == ["the photographs are as before"]
    recipe = tmp_path / "my.yaml"
    recipe.write_text(recipe.read_text() + "seed: 3\n")
    folder_of(root / "new", {".": 5}, first=40)
    folder_of(root / "a" / "more", {".": 30}, first=50)
    (root / "b" / "IMG 3.JPG").unlink()
    after, told = again(root, tmp_path)
    lost = "b/IMG 3.JPG" in {before.images.ids[row] for row in before.rows("val")}
    assert {before.images.ids[row] for row in before.rows("val")} - {"b/IMG 3.JPG"} <= {
        after.images.ids[row] for row in after.rows("val")
    }
    assert [each.partition(":")[0] for each in told[:3]] == ["train", "val", "classes that are new"]
    assert sum("1 fewer" in each for each in told) == 1 and lost == ("1 fewer" in told[1])
    assert told[3] == "my.yaml is kept as you have edited it; rename it for a new one"
    assert recipe.read_text().endswith("seed: 3\n")
    recipe.unlink()
    assert again(root, tmp_path)[1] == ["the photographs are as before"]
    assert recipe.read_text().startswith("# 3 classes; 43 images")


@pytest.mark.parametrize("name", ["my.yaml", *(f"my_data/{name}" for name in NAMES)])
def test_no_file_of_the_users_is_overwritten(tmp_path: Path, name: str) -> None:
    root, file = folder_of(tmp_path / "my", {"a": 4, "b": 4}), tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=rf"{file}: is there already"):
        files_of(root, tmp_path)
    file.unlink()
    again(root, tmp_path)
    file.write_text("mine")
    if file.suffix != ".yaml" or file.parent != tmp_path:
        with pytest.raises(UserError, match="edited since `ssld init` wrote it; nothing was"):
            again(root, tmp_path)
    other = folder_of(tmp_path / "other" / "my", {"a": 4, "b": 4})
    with pytest.raises(UserError, match=rf"is there already, for {root}"):
        files_of(other, tmp_path)


def test_given_splits_are_kept_and_copies_of_val_leave_train(tmp_path: Path) -> None:
    root = tmp_path / "outer" / "set"
    folder_of(root / "Train", {"a": 5, "b": 5})
    folder_of(root / "validation", {"a": 2, "b": 2}, first=50)
    folder_of(root / "test", {"a": 2}, first=70)
    folder_of(root / "unlabelled", {"x": 4}, first=80)
    shutil.copy(root / "validation" / "a" / "IMG 0.JPG", root / "Train" / "a" / "copy.jpg")
    found = inspect(tmp_path / "outer", None, quiet)
    assert not found.made_val
    assert Counter(found.split) == {"train": 10, "val": 4, "pool": 4, "": 3}
    assert found.reasons().keys() == {
        "is a validation image",
        "lies in no class folder of train or val",
    }
    write(found, None, files_of(tmp_path / "outer", tmp_path))
    recipe = load_recipe(str(tmp_path / "outer.yaml"))
    splits = datasets(recipe)[0].build(tmp_path, quiet)
    assert splits.pool and len(splits.pool) == 4
    assert recipe.select.policy == "best"


def test_classes_too_small_to_learn_are_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", {"a": 4, "b": 1, "c": 2, "d": 3})
    found = inspect(root, None, quiet)
    assert found.classes == ("a", "c", "d")
    assert found.per_class("train").tolist() == [3, 2, 2]
    assert found.per_class("val").tolist() == [1, 0, 1]
    assert list(found.left_out.values()) == ["its class has fewer than 2 images to train on: b"]


def test_a_class_that_val_alone_has_is_told_with_the_one_that_is_meant(tmp_path: Path) -> None:
    names = {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dogs": 2}
    found = inspect(folder_of(tmp_path / "set", names), None, quiet)
    assert "the class dogs is in val alone; did you mean 'dog'?" in found.notes


def test_one_class_is_refused_with_what_else_was_met(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "one", {"cat": 4})
    (root / "dog").mkdir()
    (root / "dog" / "readme.txt").write_text("no image")
    with pytest.raises(UserError, match=r"1 class .*\(cat\).*no image lies in dog.*passed over"):
        inspect(root, None, quiet)


def test_classes_that_lie_one_folder_deeper_are_found(tmp_path: Path) -> None:
    names = {"labelled/cat": 4, "labelled/dog": 4, "unlabelled": 3}
    root = folder_of(tmp_path / "pets", names)
    told = f"ssld init {root}/labelled --pool {root}/unlabelled"
    with pytest.raises(UserError, match=told):
        inspect(root, None, quiet)


def test_a_list_of_labels_and_a_pool_elsewhere(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "flat", {".": 8, "more": 3})
    (tmp_path / "labels.txt").write_text("".join(f"IMG {n}.JPG {n % 2}\n" for n in range(8)))
    found = inspect(root, tmp_path / "labels.txt", quiet)
    assert found.classes == ("0", "1")
    (root / "more" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    pool = inspect_pool(root / "more", quiet)
    write(found, (root / "more", pool), files_of(root, tmp_path))
    with (tmp_path / "flat_data" / "left_out.csv").open(newline="") as file:
        left_out = {row["image"]: row["reason"] for row in csv.DictReader(file)}
    assert left_out[str(root / "more" / "bad.jpg")].startswith("cannot be read")
    labelled, other = datasets(load_recipe(str(tmp_path / "flat.yaml")))
    assert labelled is not other
    images = other.build(tmp_path, quiet).pool
    assert images and len(images) == 4  # as it is there; the search counts what it cannot read


@pytest.mark.parametrize("num_pool", [0, 7, 5000, 3_000_000])
@pytest.mark.parametrize("num_images", [4, 40, 5000, 300_000])
@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_any_numbers_of_images_give_a_recipe_that_is_valid(
    tmp_path: Path, size: Size, num_images: int, num_pool: int
) -> None:
    names = [f"{row}.jpg" for row in range(4)]
    images = loose_images(tmp_path, names, [0, 1, 0, 1])
    split = np.full(num_images, "train", object)
    labels = np.arange(num_images, dtype=np.int32) % 2
    found = Photos(images, ("a", "b"), split, labels)
    data = {"labelled": Path("clothes"), "pool": Path("clothes")}
    (tmp_path / "r.yaml").write_text(recipe_text(found, num_pool, data, size))
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    assert recipe.baseline.batch_size <= num_images
    for training in (recipe.baseline, recipe.distill, recipe.finetune, recipe.fix):
        warmup = training.schedule.model_dump().get("warmup_epochs", 0)
        assert warmup < training.epochs or training.epochs == warmup == 0


@pytest.mark.parametrize(
    "case", ["no folder", "one class", "no image", "a file", "one image a class"]
)
def test_what_is_no_folder_of_classes_is_told(tmp_path: Path, case: str) -> None:
    root = tmp_path / "set"
    if case == "a file":
        root.touch()
    elif case == "one image a class":
        folder_of(root, {"a": 1, "b": 1})
    elif case != "no folder":
        folder_of(root, {"a": 3 if case == "one class" else 0})
    with pytest.raises(UserError, match=r"folder"):
        inspect(root, None, quiet)


def test_a_class_folder_is_told_from_a_folder_of_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", {"cat": 3, "dog": 3})
    (root / "texts").mkdir()
    with pytest.raises(UserError, match=rf"as dog beside it: give the folder above, {root}"):
        inspect(root / "cat", None, quiet)
    shutil.rmtree(root / "dog")
    with pytest.raises(UserError, match="found 0 classes"):
        inspect(root / "cat", None, quiet)
    with pytest.raises(UserError, match=r"did you mean '.*/cat'"):
        inspect(root / "cats", None, quiet)


def test_lists_of_a_class_that_was_renamed_are_told_with_the_command(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my set", {"cat": 6, "dog": 6})
    made(root, tmp_path)
    recipe = load_recipe(str(tmp_path / "my_set.yaml"))
    (root / "cat").rename(root / "kitty")
    again = rf"missing: .*`ssld init '{root}' --name my_set` in {tmp_path} lists them anew"
    with pytest.raises(UserError, match=again), checked_data(recipe):
        pass


def test_a_name_for_any_folder() -> None:
    assert recipe_name(Path("my photos"), None) == "my_photos"
    assert recipe_name(Path("照片"), None) == "my_data"
    assert recipe_name(Path(os.sep), None) == "my_data"


def test_a_recipe_is_called_as_is_asked(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "images", {"a": 4, "b": 4})
    found = inspect(root, None, quiet)
    for given in ("shop", "shop.v2.yaml"):
        write(found, None, files_of(root, tmp_path, given))
    data = load_recipe(str(tmp_path / "shop.yaml")).data.labelled
    assert Path(data) == tmp_path / "shop_data" / "data.yaml"
    assert (tmp_path / "shop.v2.yaml").is_file()
    for wrong, near in {"my shop": "my_shop", "../shop": "shop", "照片": "images"}.items():
        with pytest.raises(UserError, match=f"--name: got '{wrong}', .*such as '{near}'"):
            files_of(root, tmp_path, wrong)
