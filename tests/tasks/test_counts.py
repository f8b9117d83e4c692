"""Numbers of images in words."""

import pytest

from tasks.run.counts import described


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"in": 1200, "kept": 1199, "duplicates": 1}, "1,200 in, 1,199 kept, 1 duplicate"),
        ({"duplicates": 2, "rejected: unreadable": 0}, "2 duplicates"),
        (
            {"rejected: unreadable": 1, "kept": 3, "rejected: not among the best": 4},
            "3 kept, 5 rejected (1 unreadable, 4 not among the best)",
        ),
        ({"show a validation image": 1}, "1 shows a validation image"),
        ({}, ""),
    ],
)
def test_counts_are_told_in_words(counts: dict[str, int], said: str) -> None:
    assert described(counts) == said
