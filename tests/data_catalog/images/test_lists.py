import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.images.lists import label_hint, read_list
from tests.support.damage import damaged


def listed(folder, text, **options):
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path, folder, lambda more: None, **options)


def pairs(found):
    labels = found.images.labels.tolist()
    return [(i, None if n < 0 else n) for i, n in zip(found.images.ids, labels, strict=True)]


def test_label_is_the_last_word_if_a_whole_number(tmp_path):
    text = "a.jpg 3\nmy photo 2.jpg\nmy photo 3.jpg 7\n./b c/ü.jpg   12\r\nd.jpg\t1\nIMG 3.5\n7\n"
    assert pairs(listed(tmp_path, text)) == [
        ("a.jpg", 3),
        ("my photo 2.jpg", None),
        ("my photo 3.jpg", 7),
        ("b c/ü.jpg", 12),
        ("d.jpg", 1),
        ("IMG 3.5", None),
        ("7", None),
    ]


def test_a_delimiter_stands_between_path_and_label(tmp_path):
    text = "a b.jpg\t3\nc 5.jpg\nd 5\n"
    assert pairs(listed(tmp_path, text, delimiter="\t")) == [
        ("a b.jpg", 3),
        ("c 5.jpg", None),
        ("d 5", None),
    ]
    assert pairs(listed(tmp_path, "a.jpg|b.jpg | 3\n", delimiter="|")) == [("a.jpg|b.jpg", 3)]


@pytest.mark.parametrize(
    ("line", "delimiter", "hint"),
    [
        ("a.jpg,3", None, """',' stands before the number: set `sep: ","` for it"""),
        ("a b.jpg;12", None, """set `sep: ";"` for it"""),
        ("a.jpg 3", ",", "white space stands before the number, not ',': leave `sep` out"),
        ("a.jpg\t3", ",", "leave `sep` out"),
        ("a.jpg\t3", "\\t", "`sep` is a backslash and a letter; leave it out"),
        ("'a b.jpg','3'", None, "write paths and labels without quotes"),
        ("a.jpg cat", None, "'cat' is no label, which is a whole number"),
        ("a.jpg +3", None, "'+3' is no label"),
        ("a.jpg", None, ""),
        ("my photo.jpg", None, ""),
        ("n01440764/293", None, ""),
        ("a.jpg 12345678901", None, ""),
    ],
)
def test_why_a_line_has_no_label_is_guessed(tmp_path, line, delimiter, hint):
    found = listed(tmp_path, line + "\n", delimiter=delimiter, strict=False)
    assert found.images.labels.tolist() == [-1]
    told = label_hint(found.images.ids[0], delimiter, "sep")
    assert hint in told
    assert bool(told) == bool(hint)


def test_paths_in_quotes_or_with_a_comma_are_refused_where_no_file_is_called_so(tmp_path):
    for name in ('"b.jpg"', "b.jpg,"):
        (tmp_path / name).touch()
    assert len(listed(tmp_path, '"b.jpg" 0\na.jpg 1\nb.jpg, 2\n').images) == 3
    with pytest.raises(UserError, match=r'there is no "a b.jpg" \(2 such lines\); .*without quot'):
        listed(tmp_path, "\"a b.jpg\" 0\n'c.jpg' 1\n")
    with pytest.raises(UserError, match=r"there is no a b.jpg, \(1 such .*set `delimiter` to what"):
        listed(tmp_path, "a b.jpg, 1\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_names_are_bytes_whatever_the_encoding(tmp_path, encoding, end):
    bare = encoding.removesuffix("-sig")
    (tmp_path / os.fsdecode("狗 1.jpg".encode(bare))).write_bytes(b"dog")
    found = listed(tmp_path, f"狗 1.jpg 4{end}b.jpg 5{end}".encode(encoding))
    assert found.images.table["size"].to_pylist() == [3, -1]
    assert found.images.labels.tolist() == [4, 5]
    assert found.images.source(0).read_bytes() == b"dog"
    assert found.images.ids[0] == "狗 1.jpg".encode(bare).decode("utf-8", "backslashreplace")


def test_blank_lines_are_skipped_and_still_counted(tmp_path):
    found = listed(tmp_path, "\n  \na.jpg 1\n\n\nb.jpg 2")
    assert pairs(found) == [("a.jpg", 1), ("b.jpg", 2)]
    assert found.at(1) == f"{tmp_path / 'list.txt'}:6"


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_a_list_of_nothing_has_no_rows(tmp_path, text):
    assert len(listed(tmp_path, text).images) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg 1\nb.jpg 2\n./a.jpg 3\n", r"list.txt:3: 'a.jpg' is also in .*list.txt:1"),
        ("a.jpg 1\n/data/b.jpg 2\n", r"list.txt:2: got the absolute path '/data/b.jpg'"),
        (b"\xff\xd8\xff\n\x80\n", "is not a list in text"),
        (b"a\0b\nc\n", "is not a list in text"),
        (b"a\x01b\nc\n", "is not a list in text"),
        ("a.jpg 1\n".encode("utf-16"), "in UTF-16; save it as UTF-8"),
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
    text = "".join(f"{path} {label}\n" for path, label in entries)
    assert pairs(listed(tmp_path, text, strict=False)) == entries


LIST = "\ufeffa.jpg 3\r\nmy photo 2.jpg\n./b c/ü.jpg\t12\n\nd//e.jpg 4 5\n/f.jpg -1\n".encode()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged(LIST), st.sampled_from([None, ",", "\t"]), st.booleans())
def test_any_damage_gives_a_row_a_line_or_is_refused(tmp_path, data, delimiter, strict):
    try:
        found = listed(tmp_path, data, delimiter=delimiter, strict=strict)
    except UserError as error:
        assert "list.txt" in str(error)
        return
    lines = [line for line in data.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    assert len(found.images) == len(found.lines) <= len(lines)
    assert all(found.images.ids)


def test_states_come_in_order_and_missing_is_minus_one(tmp_path):
    names = [f"{i}.jpg" for i in range(4_000)]  # more than one batch
    for i in (0, 2_000, 3_999):
        (tmp_path / names[i]).write_bytes(b"x" * (i % 7 + 1))
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "folder.jpg").mkdir()
    sizes = listed(tmp_path, "\n".join([*names, "dangling.jpg", "folder.jpg"])).images.table["size"]
    there = {row: size for row, size in enumerate(sizes.to_pylist()) if size != -1}
    assert there == {0: 1, 2_000: 6, 3_999: 3}
