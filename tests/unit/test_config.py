from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from data_catalog.config import Config, UserError, closest, load_yaml, override, parse, parse_value


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
        ({"inner": {"raet": 1}}, "'inner.raet'", "'rate'"),
        ({"maybe": {"raet": 1}}, "'maybe.raet'", "'rate'"),
        ({"many": [{"raet": 1}]}, "'many.0.raet'", "'rate'"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "given twice"),
        ("a: {b: 1, b: 2}\n", "given twice"),
        ("- 1\n", "got list"),
        ("", "got NoneType"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_yaml_is_a_user_error_with_the_file_name(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as caught:
        load_yaml(yaml_file(tmp_path, text))
    assert "c.yaml" in str(caught.value)


def test_absent_yaml(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_yaml(tmp_path / "none.yaml")


def test_override_leaves_the_original_and_the_last_wins():
    data = {"a": {"b": 1, "c": 2}}
    assert override(data, ["a.b=5", "a.b=6", "d.e=[1, x]"]) == {
        "a": {"b": 6, "c": 2},
        "d": {"e": [1, "x"]},
    }
    assert data == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize("text", ["a", "=1", "a.b.c=1"])
def test_bad_override(text):
    with pytest.raises(UserError, match="override"):
        override({"a": {"b": 1}}, [text])


@settings(deadline=None)
@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
def test_parse_value_reads_back_what_yaml_writes(value):
    import yaml

    assert parse_value(yaml.safe_dump(value)) == value


def test_closest():
    assert closest("valu", ["value", "other"]) == "; did you mean 'value'?"
    assert closest("zzz", ["b", "a"]) == "; known: a, b"
    assert closest("zzz", []) == ""
