import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.images.classes import read_classes
from tests.support.damage import damaged


@pytest.mark.parametrize(
    "text", ["tench, Tinca\ngold fish\n", "0 tench, Tinca\n1 gold fish\n \n\n"]
)
def test_classes_with_or_without_index(tmp_path, text):
    (tmp_path / "c.txt").write_text(text)
    assert read_classes(tmp_path / "c.txt") == ("tench, Tinca", "gold fish")


@given(st.permutations(range(12)))
def test_numbers_mean_those_numbers_in_any_order(tmp_path_factory, order):
    path = tmp_path_factory.mktemp("c") / "c.txt"
    path.write_text("".join(f"{number} class of {number}\n" for number in order))
    assert read_classes(path) == tuple(f"class of {number}" for number in range(12))


@given(damaged("\ufeff0 tench, Tinca\r\n1: Käfer\n2\t3\n".encode()))
def test_any_damage_gives_names_or_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("c") / "c.txt"
    path.write_bytes(data)
    try:
        names = read_classes(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert len(set(names)) == len(names) > 0
    assert all(name == name.strip() != "" for name in names)


def test_a_line_without_number_makes_numbers_part_of_the_names(tmp_path):
    (tmp_path / "c.txt").write_text("7 up\ncola\n")
    assert read_classes(tmp_path / "c.txt") == ("7 up", "cola")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no class name"),
        ("\n \n", "holds no class name"),
        ("a\n\nb\n", r"c\.txt:2: is blank; name the class"),
        ("\na\n", r"c\.txt:1: is blank"),
        ("0 a\n1 b\n \n2 c", r"c\.txt:3: is blank"),
        ("7 up\n1 cola\n", r"c\.txt:1: number 7 of 'up', expected each of 0 to 1 once"),
        ("1 a\n0 b\n1 c\n", r"c\.txt:3: number 1 of 'c'"),
        ("1 a\n2 b\n3 c\n", r"c\.txt:3: number 3 of 'c'"),
        ("-1 a\n0 b\n", r"c\.txt:1: number -1 of 'a'"),
        ("0 a\n99999999999 b\n", r"c\.txt:2: number 99999999999 of 'b'"),
        ("b 1\na 0\n", r"c\.txt:1: number 1 stands behind the name"),
        ("a\nb\na\n", "classes 0 and 2 are both named 'a'"),
    ],
)
def test_bad_classes(tmp_path, text, words):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes(tmp_path / "c.txt")


@pytest.mark.parametrize("between", [" ", "\t", ",", ", ", ":", ": ", ";"])
def test_numbers_mean_those_numbers_whatever_stands_behind_them(tmp_path, between):
    (tmp_path / "c.txt").write_text(f"1{between}dog, big\n0{between}cat\n")
    assert read_classes(tmp_path / "c.txt") == ("cat", "dog, big")


def test_names_that_end_in_numbers_in_order_stay(tmp_path):
    (tmp_path / "c.txt").write_text("area 0\narea 1\n")
    assert read_classes(tmp_path / "c.txt") == ("area 0", "area 1")


def test_absent_classes(tmp_path):
    with pytest.raises(UserError, match="class names cannot be read"):
        read_classes(tmp_path / "c.txt")
