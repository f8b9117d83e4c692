"""`ssld init --labels`: tables of files and classes as people have them, beside plain lists."""

from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from tasks.start.files import files_of, write
from tasks.start.labels import read_table
from tasks.start.photos import inspect
from tests.support.images import write_jpeg

NAMES = [f"IMG {number}.jpg" for number in range(8)]
CLASSES = ["cat", "dog"] * 4


def quiet(done: int, total: int) -> None:
    """No progress."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(NAMES):
        write_jpeg(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def table(folder: Path, text: str) -> Path:
    path = folder.parent / "labels.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("file,animal", "{0},{1}"),
        ("", "{0},{1}"),
        ("", "{1},{0}"),
        ("id;species", "{0};{1}"),
        ("", "{0}\t{1}"),
        ('"file","class"', '"{0}","{1}"'),
        ("id,class", "{2},{1}"),  # without .jpg
        ("", "{3},{1}"),  # absolute
        ("file,width,Class Name", "{0},80,{1}"),
        ("", "{0}, {1}"),
        ("", ".\\{0},{1}"),  # of Windows
    ],
)
def test_any_table_gives_the_files_and_their_classes(
    folder: Path, head: str, row: str, mark: str, end: str
) -> None:
    names = [
        (name, each, name[:-4], folder / name) for name, each in zip(NAMES, CLASSES, strict=True)
    ]
    lines = [*[head] * bool(head), *(row.format(*each) for each in names), ""]
    found = read_table(table(folder, mark + end.join(lines)), folder)
    assert found is not None
    assert (found.paths, found.classes) == (tuple(NAMES), ("cat", "dog"))
    assert [found.classes[number] for number in found.numbers] == CLASSES
    photos = inspect(folder, folder.parent / "labels.csv", quiet)
    assert photos.classes == ("cat", "dog")
    assert photos.per_class("train").tolist() == [3, 3]
    assert photos.per_class("val").tolist() == [1, 1]


def test_classes_of_numbers_are_in_their_order(folder: Path) -> None:
    text = "".join(f"{name}, {number}\n" for number, name in enumerate(NAMES, 5))
    found = read_table(table(folder, text), folder)
    assert found is not None and found.classes == tuple(map(str, range(5, 13)))


def test_a_first_file_that_is_missing_is_no_head(folder: Path) -> None:
    text = "gone,cat\n" + "".join(f"{name[:-4]},cat\n" for name in NAMES)
    found = read_table(table(folder, text), folder)
    assert found is not None and len(found.paths) == len(NAMES) + 1


def test_a_list_of_numbers_is_no_table(folder: Path) -> None:
    assert read_table(table(folder, "IMG 0.jpg 0\nIMG 1.jpg 1\n"), folder) is None
    assert read_table(table(folder, ""), folder) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x/IMG 0.jpg,cat\nx/IMG 1.jpg,dog\n", "none of its files lies in .*photos .*correct it"),
        ("IMG 0.jpg,cat\nIMG 1.jpg,\n", r"csv:2: IMG 1.jpg has no class"),
        ("IMG 0.jpg,cat\nIMG 1.jpg,dog\n\nIMG 0.jpg,dog\n", r"csv:4: .* stands in line 1 too"),
        ("IMG 0.jpg,cat\nIMG 1.jpg,dog,3\n", r"csv:2: 3 columns, as line 1 has 2"),
        ("IMG 0.jpg,a,b\nIMG 1.jpg,c,d\n", r"which of its columns has the classes"),
        ("IMG 0.jpg,cat\n/else/1.jpg,dog\n", r"csv:2: /else/1.jpg does not lie in .*photos;"),
        ("cat\ndog\n", r"csv:1: 1 column; expected `path label` lines"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(folder: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_table(table(folder, text), folder)


@pytest.mark.parametrize("text", ["IMG 0.jpg,cat\nIMG 1.jpg,dog\n", "IMG 0.jpg 0\nIMG 1.jpg 1\n"])
def test_the_folder_in_which_the_files_lie_is_named(folder: Path, text: str) -> None:
    with pytest.raises(UserError, match=rf"they lie in {folder}: ssld init {folder} --labels"):
        inspect(folder.parent, table(folder, text), quiet)


def test_names_that_a_user_gives_to_numbered_classes_are_kept(folder: Path, tmp_path: Path) -> None:
    rows = zip(NAMES, CLASSES, strict=True)
    listed = table(folder, "".join(f"{name} {CLASSES.index(each)}\n" for name, each in rows))

    def init() -> list[str]:
        files = files_of(folder, tmp_path)
        found = inspect(folder, listed, quiet, files.list_of("val"))
        told = write(found, None, files)
        assert not [change for change in told if "classes" in change]
        return (tmp_path / "photos_data" / "classes.txt").read_text().splitlines()

    assert init() == ["0 0", "1 1"]
    for text in ("cat\ndog\n", "0 cat\n1 dog\n"):
        (tmp_path / "photos_data" / "classes.txt").write_text(text)
        assert init() == init() == ["0 cat", "1 dog"]
    (tmp_path / "photos_data" / "classes.txt").write_text("cat\ndog\nbird\n")
    with pytest.raises(UserError, match="edited since"):
        init()
