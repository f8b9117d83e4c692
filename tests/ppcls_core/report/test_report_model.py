import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppcls_core.report.intervals import is_noise, paired_interval
from ppcls_core.report.model import (
    AccuracyRow,
    ClassSample,
    CountRow,
    Histogram,
    SelectionSummary,
    Series,
    percent,
    printable,
    signed,
)


def row(top1: float, num_images: int) -> AccuracyRow:
    return AccuracyRow("fixed", "net", 224, top1, 1.0, num_images, None, 10)


def test_interval_is_wilsons() -> None:
    low, high = row(0.8, 100).interval()  # by hand: (0.8 + z2/200 -+ z sqrt(...)) / (1 + z2/100)
    assert (low, high) == pytest.approx((0.71117, 0.86663), abs=1e-5)


@given(st.integers(1, 60_000), st.floats(0, 1))
def test_interval_holds_the_accuracy_and_stays_a_fraction(num: int, share: float) -> None:
    top1 = round(share * num) / num
    low, high = row(top1, num).interval()
    assert 0 <= low <= top1 + 1e-12 and top1 - 1e-12 <= high <= 1


def test_more_images_make_the_interval_narrower() -> None:
    widths = [row(0.75, num).interval() for num in (4, 40, 400, 4000)]
    spans = [high - low for low, high in widths]
    assert spans == sorted(spans, reverse=True)


def test_no_image_gives_no_interval() -> None:
    assert row(0.0, 0).interval() == (0.0, 0.0)


def test_paired_interval_is_newcombes() -> None:
    low, high = paired_interval(36, 12, 2, 0)  # his example: 0.20 of 50 pairs
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)


CELLS = st.integers(0, 500)


@given(CELLS, CELLS, CELLS, CELLS)
def test_paired_interval_holds_the_difference_and_turns_with_the_models(
    both: int, first: int, second: int, neither: int
) -> None:
    low, high = paired_interval(both, first, second, neither)
    difference = (first - second) / max(both + first + second + neither, 1)
    assert -1 <= low <= difference + 1e-9 and difference - 1e-9 <= high <= 1
    assert paired_interval(both, second, first, neither) == pytest.approx((-high, -low))


def test_equal_gains_of_more_images_are_no_noise() -> None:
    assert is_noise(paired_interval(60, 8, 4, 48))  # 4 of 120 images
    assert not is_noise(paired_interval(6000, 800, 400, 4800))
    assert not is_noise(())


@pytest.mark.parametrize(
    ("kept", "missing", "reconciles"), [(90, 0, True), (89, 1, False), (93, -3, False)]
)
def test_every_image_is_counted_once(kept: int, missing: int, reconciles: bool) -> None:
    counts = CountRow("dedup", images_in=100, kept=kept, duplicates=8, rejected=2)
    assert (counts.missing, counts.reconciles) == (missing, reconciles)


def test_last_skips_what_is_not_finite() -> None:
    assert Series((1, 2, 3, 4), (0.5, 0.25, math.nan, math.inf)).last() == (2, 0.25)
    assert Series((1,), (math.nan,)).last() is None
    assert Series().last() is None


def test_series_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(AssertionError, match="2 x for 1 y"):
        Series((1, 2), (1,))


def test_unfilled_classes_come_poorest_first() -> None:
    samples = [ClassSample(name, num, 4, None) for name, num in (("a", 3), ("b", 4), ("c", 0))]
    assert [sample.name for sample in SelectionSummary(classes=tuple(samples)).unfilled] == [
        "c",
        "a",
    ]


def test_a_histogram_has_an_edge_more_than_counts() -> None:
    with pytest.raises(AssertionError, match="2 edges"):
        Histogram((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("fraction", "num_images", "text"),
    [
        (0.8118, 372, "81.2"),
        (0.7896, 50_000, "78.96"),
        (1.0, 372, "100.0"),
        (0.0, 50_000, "0.00"),
        (math.nan, 372, "\u2013"),
    ],
)
def test_percent(fraction: float, num_images: int, text: str) -> None:
    assert percent(fraction, num_images) == text


@pytest.mark.parametrize(
    ("points", "text"),
    [(6.18, "+6.2"), (-0.4, "\u22120.4"), (-0.01, "0.0"), (0.0, "0.0"), (math.inf, "\u2013")],
)
def test_signed(points: float, text: str) -> None:
    assert signed(points) == text


@given(st.text())
def test_printable_text_can_be_written_and_keeps_its_length(text: str) -> None:
    clean = printable(text)
    assert len(clean) == len(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert printable(clean) == clean


def test_printable_replaces_what_hides_or_breaks() -> None:
    assert printable("a\x00b\x1bc\u202ed\udc80") == "a\ufffdb\ufffdc\ufffdd\ufffd"
    assert printable("\u6bdb\u8863 \u00a0\n\tok") == "\u6bdb\u8863 \u00a0\n\tok"
