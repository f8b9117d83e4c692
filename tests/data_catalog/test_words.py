"""One thing is told in the singular, whatever its noun."""

import pytest

from data_catalog.base.words import counted


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (1200, ("pool image",), "1,200 pool images"),
        (2, ("class",), "2 classes"),
        (2, ("entry",), "2 entries"),
        (2, ("batch",), "2 batches"),
        (2, ("epoch",), "2 epochs"),
        (2, ("day",), "2 days"),
        (1, ("image shows", "images show"), "1 image shows"),
        (3, ("image shows", "images show"), "3 images show"),
    ],
)
def test_a_number_and_its_noun_agree(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
