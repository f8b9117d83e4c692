import base64
import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from ppcls_core.report import answer_figures, figures
from ppcls_core.report.answers import Answers
from ppcls_core.report.figures import stage_colour
from ppcls_core.report.model import (
    AccuracyRow,
    ClassSample,
    Curve,
    DuplicatePair,
    Histogram,
    SelectionSummary,
    Series,
)

HOSTILE = "</text><script>alert(1)</script> $\\frac{x}$ \u6bdb\u8863 \x00\x1b\udc80 &amp; \u202e"


def picture(seed: int, height: int = 90, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


ACCURACIES = (
    AccuracyRow("teacher", "ResNet50_vd", 224, 0.895, 0.99, 372, None, 23_000_000),
    AccuracyRow("baseline", "MobileNetV3_small_x1_0", 224, 0.75, 0.97, 372, None, 1_500_000),
    AccuracyRow("fixed", "MobileNetV3_small_x1_0", 288, 0.8118, 0.98, 372, 6.18, 1_500_000),
)
CURVES = (
    Curve("teacher", Series((1, 2, 3), (2.0, 1.0, 0.625)), Series((1, 2, 3), (0.1, 0.5, 0.2)),
          Series((1, 2, 3), (0.3, 0.6, 0.877))),
    Curve("distill", loss=Series((1, 2), (1.5, 0.75))),
)  # fmt: skip
PAIRS = tuple(
    DuplicatePair(f"p/{i}.jpg", f"v/{i}.jpg", "sift", 0.9, 31, 0.4, "accepted", picture(i))
    for i in range(4)
)
SAMPLES = (
    ClassSample("dress", 20, 20, 0.41, tuple(map(picture, range(6))), tuple(map(picture, (7, 8)))),
    ClassSample("hat", 0, 20, None),
)
SELECTION = SelectionSummary(
    "best", SAMPLES, Histogram((0, 0.5, 1), (3, 17)), Histogram((0, 1, 2.5), (70, 30))
)
DRAW: list[Callable[[], bytes]] = [
    lambda: figures.accuracy_chart(ACCURACIES),
    lambda: figures.learning_curves(CURVES),
    lambda: figures.selection_chart(SELECTION),
    lambda: figures.pair_sheet(PAIRS),
    lambda: figures.selection_sheet(SAMPLES),
]


def words(svg: bytes) -> list[str]:
    """All texts drawn; fails when the SVG is not well-formed."""
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


@pytest.mark.parametrize("draw", DRAW)
def test_equal_input_gives_equal_bytes_also_on_threads(draw: Callable[[], bytes]) -> None:
    first = draw()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: draw(), range(2))) == [first, first]


def test_accuracy_chart_shows_every_model_and_its_numbers() -> None:
    shown = words(figures.accuracy_chart(ACCURACIES))
    assert {"teacher", "baseline", "fixed", "89.5 %", "75.0 %", "81.2 % (+6.2)"} <= set(shown)


def test_curves_mark_last_accuracy_and_loss_and_highest_rate() -> None:
    shown = words(figures.learning_curves(CURVES))
    assert {"teacher", "distill", "87.7 %", "0.625", "peak 0.5", "0.75"} <= set(shown)
    assert shown.count("not recorded") == 2


def test_of_one_evaluation_the_point_is_drawn() -> None:
    (curve, _), point = CURVES, Series((7,), (0.5,))
    drawn = figures.learning_curves([replace(curve, val_top1=point)])
    assert {"7", "50.0 %"} <= set(words(drawn))


def test_selection_chart_shows_counts_scores_and_entropies() -> None:
    shown = words(figures.selection_chart(SELECTION))
    assert {"images of each class", "wanted: 20", "nats", "probability of the class"} <= set(shown)
    assert "not recorded" not in shown
    empty = Histogram((0, 1), (0,))
    shown = words(figures.selection_chart(replace(SELECTION, scores=None, entropies=empty)))
    assert shown.count("not recorded") == 2


def test_what_is_wanted_is_no_line_where_it_is_out_of_sight_or_nothing_is_wanted() -> None:
    far = tuple(replace(sample, wanted=4000) for sample in SAMPLES)
    for selection in (replace(SELECTION, classes=far), replace(SELECTION, policy="random")):
        shown = words(figures.selection_chart(selection))
        assert not any(word.startswith("wanted") for word in shown)


def test_a_selection_of_nothing_can_be_drawn() -> None:
    nothing = SelectionSummary(classes=(ClassSample("hat", 0, 4000, None),))
    assert "images of each class" in words(figures.selection_chart(nothing))
    with pytest.raises(ValueError, match="at least one class"):
        figures.selection_chart(SelectionSummary())


def test_a_stage_keeps_its_colour_and_model_and_stage_share_it() -> None:
    assert stage_colour("distill") == stage_colour("distilled")
    assert stage_colour("fix") == stage_colour("Fixed")
    known = [stage_colour(name) for name in ("teacher", "baseline", "distill", "finetune", "fix")]
    assert len(set(known)) == 5
    assert stage_colour("another") == figures.MUTED


@pytest.mark.parametrize("names", [["cat", "dog"], ["a name of many letters"] * 25])
def test_no_word_of_the_confusion_is_cut_off(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(len(names))
    answers = Answers(
        tuple(names), tuple(map(str, labels)), labels, {"fix": labels}, {"fix": labels / 1}, "fix"
    )
    drawn: list[Figure] = []
    monkeypatch.setattr(answer_figures, "as_svg", lambda figure: drawn.append(figure) or b"")
    answer_figures.confusion_chart(answers)
    (figure,) = drawn
    left, bottom, right, top = figure.get_tightbbox().extents
    assert left >= 0
    assert bottom > 0.02
    assert right <= figure.get_figwidth()
    assert top <= figure.get_figheight()


def test_hostile_names_leave_a_well_formed_picture() -> None:
    rows = [replace(ACCURACIES[0], label=HOSTILE, architecture=HOSTILE)]
    curves = [replace(CURVES[0], stage=HOSTILE, x_name=HOSTILE)]
    for svg in (figures.accuracy_chart(rows), figures.learning_curves(curves)):
        assert b"<script" not in svg
        assert words(svg)
    figures.pair_sheet([replace(PAIRS[0], pool_id=HOSTILE, channel=HOSTILE, planted=HOSTILE)])
    figures.selection_sheet([replace(SAMPLES[0], name=HOSTILE)])


def test_svg_refers_to_nothing_outside_and_bears_no_date() -> None:
    for svg in (figures.accuracy_chart(ACCURACIES), figures.learning_curves(CURVES)):
        root = ElementTree.fromstring(svg)
        links = [v for n in root.iter() for k, v in n.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
        assert b"dc:date" not in svg and b"<style" in svg


@pytest.mark.parametrize(
    "loss",
    [(1.0,), (math.nan,) * 3, (math.inf, 2.0, math.nan), (0.0, 0.0), (-1.0, -3.0), (1e30, 1e-30)],
)
def test_odd_losses_can_be_drawn(loss: tuple[float, ...]) -> None:
    series = Series(tuple(range(len(loss))), loss)
    assert "teacher" in words(figures.learning_curves([Curve("teacher", series, series, series)]))


def test_long_series_are_thinned_but_keep_both_ends() -> None:
    x = tuple(float(i) for i in range(100_000))
    curve = Curve("teacher", loss=Series(x, tuple(1 / (1 + i) for i in x)), x_name="step")
    svg = figures.learning_curves([curve])
    assert len(svg) < 60_000
    assert "1e-05" in words(svg)


@pytest.mark.parametrize(
    ("draw", "noun"),
    [
        (figures.accuracy_chart, "row"),
        (figures.learning_curves, "curve"),
        (figures.pair_sheet, "pair"),
        (figures.selection_sheet, "class"),
    ],
)
def test_nothing_to_draw_is_an_error(draw: Callable[[list], bytes], noun: str) -> None:
    with pytest.raises(ValueError, match=f"at least one {noun}"):
        draw([])


def test_sheets_hold_the_pictures() -> None:
    red, blue = (np.full((160, 160, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    pair = replace(PAIRS[0], picture=np.hstack([red, blue]))
    sheet = np.asarray(Image.open(io.BytesIO(figures.pair_sheet([pair] * 4)))).astype(int)
    for index, (x, y) in enumerate([(16, 54), (366, 54), (716, 54), (16, 271)]):
        assert abs(sheet[y + 80, x + 80] - (200, 0, 0)).max() < 12, index
        assert abs(sheet[y + 80, x + 244] - (0, 0, 200)).max() < 12, index


def test_names_in_chinese_are_drawn_where_a_font_has_them() -> None:
    if not figures._families(frozenset("\u4e2d\u6587")):
        pytest.skip("no installed font has Chinese characters")
    sheets = [
        figures.pair_sheet([replace(PAIRS[0], pool_id=name)])
        for name in ("\u4e2d\u4e2d", "\u6587\u6587")
    ]
    assert sheets[0] != sheets[1]  # as boxes they would look alike


def test_a_missing_picture_leaves_its_tile_empty() -> None:
    sheet = figures.pair_sheet([replace(PAIRS[0], picture=None)])
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    assert (pixels[60:200, 20:170] == 255).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 200))
def test_thumbnail_fits_keeps_proportions_and_never_grows(
    height: int, width: int, side: int
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    small = figures.thumbnail(image, side)
    assert small.dtype == np.uint8 and small.shape[2] == 3
    assert max(small.shape[:2]) == min(side, max(height, width))
    scale = min(1.0, side / max(height, width))
    assert abs(small.shape[0] - height * scale) <= 1 and abs(small.shape[1] - width * scale) <= 1


def test_jpeg_and_data_url_come_back() -> None:
    flat = np.full((40, 30, 3), (10, 120, 200), np.uint8)
    url = figures.data_url(figures.jpeg(flat), "image/jpeg")
    head, _, body = url.partition(",")
    assert head == "data:image/jpeg;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))).astype(int)
    assert pixels.shape == (40, 30, 3) and abs(pixels - flat).max() < 6
