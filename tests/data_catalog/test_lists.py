import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.images.lists import (
    PLANTED_SCHEMA,
    class_folders,
    file_sizes,
    read_classes,
    read_folder,
    read_list,
    read_planted,
)
from data_catalog.images.manifest import SCHEMA, Manifest


def listed(folder, text):
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path)


def pairs(rows):
    return list(zip(rows.paths.to_pylist(), rows.labels.to_pylist(), strict=True))


def test_label_is_the_last_word_if_a_whole_number(tmp_path):
    text = "a.jpg 3\nmy photo 2.jpg\nmy photo 3.jpg 7\n./b c/ü.jpg   12\r\nd.jpg\t-1\nIMG 3.5\n"
    assert pairs(listed(tmp_path, text)) == [
        ("a.jpg", 3),
        ("my photo 2.jpg", None),
        ("my photo 3.jpg", 7),
        ("b c/ü.jpg", 12),
        ("d.jpg", -1),
        ("IMG 3.5", None),
    ]


def test_blank_lines_are_skipped_and_still_counted(tmp_path):
    rows = listed(tmp_path, "\n  \na.jpg 1\n\n\nb.jpg 2")
    assert pairs(rows) == [("a.jpg", 1), ("b.jpg", 2)]
    assert rows.at(1) == f"{tmp_path / 'list.txt'}:6"


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_a_list_of_nothing_has_no_rows(tmp_path, text):
    assert len(listed(tmp_path, text)) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg 1\nb.jpg 2\n./a.jpg 3\n", r"list.txt:3: 'a.jpg' stands also in line .*list.txt:1"),
        ("a.jpg 1\n/data/b.jpg 2\n", r"list.txt:2: got the absolute path '/data/b.jpg'"),
        (b"\xff\xd8\xff\n\x80\n", "not a list in UTF-8 text"),
        (b"a\x01b\nc\n", "not a list in UTF-8 text"),
    ],
)
def test_bad_lists(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        listed(tmp_path, text)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8
).filter(lambda name: not name.startswith(("/", ".")))
ENTRIES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=3).map(" ".join), st.integers(0, 99_999)),
    min_size=1,
    unique_by=lambda entry: entry[0],
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES)
def test_any_list_reads_back(tmp_path, entries):
    assert pairs(listed(tmp_path, "".join(f"{p} {n}\n" for p, n in entries))) == entries


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * len(path))


def test_folder_of_class_folders(tmp_path):
    tree(tmp_path, "t/b/2.JPG", "t/b/deep/1.png", "t/a/x y.webp", "t/a/Thumbs.db", "t/.git/h.jpg")
    tree(tmp_path, "t/stray.jpg", "t/a/.tmp-1.jpg")
    folder = tmp_path / "t"
    assert class_folders(folder) == ("a", "b")
    assert pairs(read_folder(folder, tmp_path, ("a", "b"))) == [
        ("t/a/x y.webp", 0),
        ("t/b/2.JPG", 1),
        ("t/b/deep/1.png", 1),
    ]
    assert pairs(read_folder(folder, tmp_path, ("z", "b", "a")))[0] == ("t/a/x y.webp", 2)


def test_pool_folder_has_no_labels(tmp_path):
    tree(tmp_path, "b/2.jpg", "a/1.jpg", "0.jpg")
    assert pairs(read_folder(tmp_path, tmp_path, None)) == [
        ("0.jpg", None),
        ("a/1.jpg", None),
        ("b/2.jpg", None),
    ]


@pytest.mark.parametrize(
    "text", ["tench, Tinca\ngold fish\n", "0 tench, Tinca\n1 gold fish\n \n\n"]
)
def test_classes_with_or_without_index(tmp_path, text):
    (tmp_path / "c.txt").write_text(text)
    assert read_classes(tmp_path / "c.txt") == ("tench, Tinca", "gold fish")


def test_names_that_only_start_with_numbers_are_kept(tmp_path):
    (tmp_path / "c.txt").write_text("7 up\n1 cola\n")
    assert read_classes(tmp_path / "c.txt") == ("7 up", "1 cola")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no class name"),
        ("\n \n", "holds no class name"),
        ("a\n\nb\n", r"c\.txt:2: is blank; name the class"),
        ("\na\n", r"c\.txt:1: is blank"),
        ("0 a\n1 b\n \n2 c", r"c\.txt:3: is blank"),
        ("a\nb\na\n", "classes 0 and 2 are both named 'a'"),
    ],
)
def test_bad_classes(tmp_path, text, words):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes(tmp_path / "c.txt")


def test_absent_classes(tmp_path):
    with pytest.raises(UserError, match="class names cannot be read"):
        read_classes(tmp_path / "c.txt")


def test_file_sizes_in_order_and_missing_is_minus_one(tmp_path):
    names = [f"{i}.jpg" for i in range(40_000)]  # more than one batch
    for i in (0, 20_000, 39_999):
        (tmp_path / names[i]).write_bytes(b"x" * (i % 7 + 1))
    ticks = []
    sizes = file_sizes(tmp_path, pa.chunked_array([names]), ticks.append).to_pylist()
    assert {i: size for i, size in enumerate(sizes) if size != -1} == {0: 1, 20_000: 2, 39_999: 2}
    assert sum(ticks) == 40_000
    assert len(ticks) > 1


def manifest(*ids):
    table = pa.table([ids, ["r"] * len(ids), ids, [1] * len(ids), [None] * len(ids)], schema=SCHEMA)
    return Manifest(table)


POOL = manifest("p/x.jpg", "p/y.jpg", "q/y.jpg")
VAL = manifest("v/1.jpg", "v/2.jpg")


def planted(folder, text):
    (folder / "p.csv").write_text(text)
    return read_planted(folder / "p.csv", POOL, VAL)


def test_planted_names_are_ids_or_unique_file_names(tmp_path):
    table = planted(
        tmp_path, "pool_image,val_image,transform\nx.jpg,1.jpg,crop\nq/y.jpg,v/2.jpg,blur\n"
    )
    assert table.schema == PLANTED_SCHEMA
    assert table.to_pylist() == [
        {"pool_id": "p/x.jpg", "val_id": "v/1.jpg", "transform": "crop"},
        {"pool_id": "q/y.jpg", "val_id": "v/2.jpg", "transform": "blur"},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pool,val\nx,y\n", r"got columns \['pool', 'val'\], expected pool_image,val_image"),
        ("", "got columns None"),
        ("pool_image,val_image,transform\ny.jpg,1.jpg,a\n", "p.csv:2: 'y.jpg' stands for 2 images"),
        ("pool_image,val_image,transform\nx.jpg,3.jpg,a\n", "p.csv:2: '3.jpg' is not there"),
        ("pool_image,val_image,transform\nx.jpg\n", "p.csv:2: '' is not there"),
    ],
)
def test_bad_planted(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        planted(tmp_path, text)


def test_unreadable_file_counts_as_missing(tmp_path):
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    sizes = file_sizes(tmp_path, pa.chunked_array([["dangling.jpg", "a\0b"]]), lambda n: None)
    assert sizes.to_pylist() == [-1, -1]
