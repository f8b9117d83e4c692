"""Errors whose settings are called as the user's file calls them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import UserError, settings_named, with_settings_named

KEYS = {"lr": "LEARNING_RATE.params.lr", "num_classes": "classes_num", "clip_norm": ""}


def key_of(name: str) -> str:
    return KEYS.get(name, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lower `lr`", "lower `LEARNING_RATE.params.lr`"),
        ("type `-o num_classes=3`", "type `-o classes_num=3`"),
        ("lower `lr` (or set `clip_norm`); go on", "lower `LEARNING_RATE.params.lr`; go on"),
        ("set `clip_norm`", "set `clip_norm`"),  # nothing better is known
        ("(`lr`, now 3)", "(`LEARNING_RATE.params.lr`, now 3)"),
        ("lr and `ppcls train` and `a: 1` stay", "lr and `ppcls train` and `a: 1` stay"),
        ("`other.name`", "`other.name`"),
    ],
)
def test_settings_in_backticks_are_called_as_the_user_does(text, said):
    assert with_settings_named(text, key_of) == said
    assert with_settings_named(said, key_of) == said


@given(st.text("`()ab.c=-o \\n"))
def test_nothing_changes_where_names_stay(text):
    assert with_settings_named(text, str) == text


def test_an_error_keeps_its_kind():
    class Special(UserError):
        pass

    expected = pytest.raises(Special, match=r"^lower `LEARNING_RATE\.params\.lr`$")
    with expected, settings_named(key_of):
        raise Special("lower `lr`")
