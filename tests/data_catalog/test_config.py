import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from data_catalog.base.config import (
    Config,
    UserError,
    closest,
    closest_path,
    load_yaml,
    no_such_yaml,
    override,
    parse,
    parse_value,
)


class Inner(Config):
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


class Outer(Config):
    epochs: int = Field(1, ge=1)
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()


def yaml_file(folder, text):
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def mistake(data):
    with pytest.raises(UserError) as caught:
        parse(Outer, data, "here.yaml")
    return str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_coerced(tmp_path):
    data = load_yaml(yaml_file(tmp_path, "epochs: 3\ninner: {rate: 1e-3}\n"))
    assert parse(Outer, data, "x") == Outer(epochs=3, inner=Inner(rate=0.001))


def test_configs_are_immutable():
    with pytest.raises(ValidationError):
        Inner().rate = 2.0


@pytest.mark.parametrize(
    ("data", "path", "near"),
    [
        ({"epoch": 1}, "'epoch'", "'epochs'"),
        ({"inner": {"raet": 1}}, "'inner.raet'", "'inner.rate'"),
        ({"maybe": {"raet": 1}}, "'maybe.raet'", "'maybe.rate'"),
        ({"many": [{"raet": 1}]}, "'many.0.raet'", "'many.0.rate'"),
    ],
)
def test_unknown_key_names_its_path_and_the_closest(data, path, near):
    message = mistake(data)
    assert message.startswith("here.yaml: unknown setting ")
    assert path in message
    assert near in message


def test_every_mistake_has_its_line():
    lines = mistake({"epochs": 0, "inner": {"kind": "c"}}).splitlines()
    assert len(lines) == 2
    assert "epochs: " in lines[0] and "got 0" in lines[0]
    assert "inner.kind: " in lines[1] and "got 'c'" in lines[1]


def test_required_setting():
    class Needs(Config):
        root: str

    with pytest.raises(UserError, match="x: setting 'root' is required"):
        parse(Needs, {}, "x")


def test_values_of_a_wrong_type_are_told_in_our_words():
    class Types(Config):
        whole: int = 1
        number: float = 1.0
        maybe: float | None = None
        flag: bool = True
        text: str = ""
        many: tuple[int, ...] = ()
        section: Inner = Inner()
        size: Annotated[int, Field(gt=0)] | tuple[int, int] = 1

    wrong = {
        "whole": (1.5, "a whole number, got 1.5"),
        "number": ("fast", "a number, got 'fast'"),
        "maybe": (True, "a number, got 'True'"),
        "flag": ("maybe", "true or false, got 'maybe'"),
        "text": (1, "text, got 1"),
        "many": ("x", "a list, got 'x'"),
        "section": ([1], "`key: value` lines, got [1]"),
        "size": ("x", "a whole number, got 'x'"),
    }
    for key, (value, message) in wrong.items():
        with pytest.raises(UserError) as caught:
            parse(Types, {key: value}, "here.yaml")
        assert str(caught.value).splitlines()[0] == f"here.yaml: {key}: expected {message}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    assert "inner.rate: expected a finite number" in mistake({"inner": {"rate": value}})


def test_of_many_mistakes_the_first_are_shown():
    lines = mistake({f"key{number}": 1 for number in range(100)}).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "here.yaml: and 90 more mistakes"
    assert len(mistake({"inner": {"rate": "x" * 10_000}})) < 200


NINE = "abcdefghi"
BOMB = "a: &a [0, 0]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise(NINE)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 9)}], {name}: 1}}\n"
    for before, name in pairwise(NINE)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", r"key 'a' is given twice, again in line 2: keep one"),
        ("a: {b: 1, b: 2}\n", "given twice"),
        ("- 1\n", "got list"),
        ("", "got NoneType"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("a: \0", "not valid YAML: unacceptable character"),
        (BOMB, "more than 20,000 values"),
        (MERGES, "more than 20,000 values"),
        ("a: &a [*a]", r"an alias within itself \(line 1, column 4\)"),
        ("a:\n  " + "- " * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 characters"),
        ("a: 1" + ":1" * 2000, "a number of 4,001 characters"),
        ("a: 010", "010 counts in eights or sixties"),
        ("a: [-0_7]", "-0_7 counts in eights"),
        ("a: 1:30", "1:30 counts in eights or sixties"),
        ("a: 1:30.5", "counts in eights or sixties"),
        ("a: 2020-13-45", "not valid YAML: month"),
        ("1: 2", "the key '1' is not text: put it in quotes"),
        ("a: [{on: 2}]", "the key 'on' is not text"),
        ("? [1]\n: 2", "is not text"),
        ("#" * 40_000, "more than 32,768 bytes"),
    ],
)
def test_bad_yaml_is_a_user_error_with_the_file_name(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as caught:
        load_yaml(yaml_file(tmp_path, text))
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_text_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "picture").write_bytes(b"\x89PNG")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UserError, match="is a folder or a device; give the path"):
            load_yaml(path)
    for name in ("none.yaml", "picture", "a\0b", "x" * 300):
        with pytest.raises(UserError, match=r"(cannot be read .*|no such file); give the path"):
            load_yaml(tmp_path / name)


def test_aliases_and_merges_of_a_usual_size_are_read(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    once = {"x": 1, "y": 2}
    assert load_yaml(yaml_file(tmp_path, text)) == {
        "a": once,
        "b": {"x": 1, "y": 3},
        "c": [once, once],
    }


def test_keys_given_twice_can_be_told_instead(tmp_path):
    told: list[str] = []
    data = load_yaml(yaml_file(tmp_path, "a: {b: 1, b: 2}\na: 3\nc: {b: 1}\n"), told.append)
    assert data == {"a": 3, "c": {"b": 1}}
    assert told == [
        "key 'a' is given twice, again in line 2",
        "key 'b' is given twice, again in line 1",
    ]


def test_override_leaves_the_original_and_the_last_wins():
    data = {"a": {"b": 1, "c": 2}}
    assert override(data, ["a.b=5", "a.b=6", "d.e=[1, x]"]) == {
        "a": {"b": 6, "c": 2},
        "d": {"e": [1, "x"]},
    }
    assert data == {"a": {"b": 1, "c": 2}}


def test_override_makes_sections_and_finds_places_in_lists():
    shared = {"x": 1}
    data = {"a": None, "many": [{"b": shared}, {"b": shared}]}
    assert override(data, ["a.b.c=1", "many.1.b.x=2", "new.d="]) == {
        "a": {"b": {"c": 1}},
        "many": [{"b": {"x": 1}}, {"b": {"x": 2}}],
        "new": {"d": None},
    }
    assert shared == {"x": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "expected the form a.b=value"),
        ("=1", "expected the form a.b=value"),
        ("a..b=1", "expected the form a.b=value"),
        ("a" + ".a" * 60 + "=1", "expected the form a.b=value"),
        ("a.b.c=1", "'c' is below the value 1, not in a section"),
        ("many.2=1", "'2' is no position in a list of 1; 0 is the first"),
        ("many.x.y=1", "'x' is no position in a list of 1"),
        ("a.b=[", r"^a.b: value '\[': not valid YAML.*; text .*: a\.b='\"...\"'$"),
        ("a={1: 2}", "is not text"),
        ("a=" + "9" * 5000, "a number of 5,000 characters"),
        ("a=" + "- " * 5000, "nested too deeply"),
    ],
)
def test_bad_override(text, words):
    with pytest.raises(UserError, match=words) as caught:
        override({"a": {"b": 1}, "many": [1]}, [text])
    assert len(str(caught.value)) < 300


@settings(deadline=None)
@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
def test_parse_value_reads_back_what_yaml_writes(value):
    import yaml

    assert parse_value(yaml.safe_dump(value), "a") == value


def test_closest_path(tmp_path, monkeypatch):
    (tmp_path / "wardrobe/pool").mkdir(parents=True)
    for name in ("closet.yaml", "wardrobe/data.yaml"):
        (tmp_path / name).touch()

    def near(path, *fits):
        return closest_path(tmp_path / path, *fits).replace(f"{tmp_path}/", "")

    assert near("wardrob/data.yaml") == "; did you mean 'wardrobe/data.yaml'?"
    assert near("wardrobe/pol", Path.is_dir) == "; did you mean 'wardrobe/pool'?"
    assert near("Closet.yml") == "; did you mean 'closet.yaml'?"
    assert near("nothing.yaml") == ""  # like others by its end alone
    assert near("wardrob/none") == ""
    assert near("closet", Path.is_dir) == ""
    monkeypatch.chdir(tmp_path / "wardrobe")  # from which a path was meant to start
    assert near("else/data.yaml") == "; did you mean 'wardrobe/data.yaml'?"
    assert near("else/pool", Path.is_file) == ""
    monkeypatch.undo()
    assert near("wardrobe/data.yaml/x") == ""
    assert "wardrobe/data.yaml'?" in str(no_such_yaml(tmp_path / "wardrob/data.yaml"))


def test_closest():
    assert closest("valu", ["value", "other"]) == "; did you mean 'value'?"
    assert closest("zzz", ["b", "a"]) == "; known: a, b"
    assert closest("zzz", []) == ""
    assert closest("K", ["k", "policy"]) == "; did you mean 'k'?"
