import base64
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_core.report import page
from ppcls_core.report.answers import Answers, WrongImage
from ppcls_core.report.model import (
    AccuracyRow,
    ClassSample,
    CleanRow,
    CountRow,
    Curve,
    DuplicatePair,
    Headline,
    Histogram,
    LeftOut,
    Overlap,
    PlantedRow,
    Report,
    SearchReport,
    SelectionSummary,
    Series,
    StageRow,
)

VOID = {"meta", "link", "img", "source", "br"}
ELEMENTS = {
    *("html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer", "nav"),
    *("section", "article", "h1", "h2", "h3", "p", "ul", "li", "a", "div", "span", "i", "strong"),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "figure", "figcaption"),
    *("picture", "source", "img", "code", "pre", "details", "summary", "br"),
}
HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} &lt; \u202e\x00\udc80"
)
SEEN = "\"'><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} &lt; \ufffd\ufffd\ufffd"


class Page(HTMLParser):
    """The page as a browser sees it: elements, attributes, by section the text and the table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.section = ""
        self.text: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.feed(html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data
        if {"td", "th"} & set(self.open):
            self.rows[self.section][-1][-1] += data

    def all_text(self) -> str:
        return "".join(self.text.values())

    def body(self, section: str) -> list[list[str]]:
        """The table's rows of `section` without its head."""
        return self.rows[section][1:]


def picture(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


LEFT_OUT = (
    LeftOut("dedup", "not_an_image", 1200),
    LeftOut("dedup", "empty", 3, ("a.jpg", "b.jpg")),
)


def some_answers(names: tuple[str, ...] = ("dress", "hat", "shirt")) -> Answers:
    """Six images: the student has two wrong, the teacher one of these."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    predicted = {
        "teacher": np.array([0, 0, 1, 1, 2, 1]),
        "baseline": np.array([0, 1, 1, 0, -1, 1]),
        "fixed": np.array([0, 1, 1, 1, 2, 1]),
    }
    shares = dict.fromkeys(predicted, np.array([0.9, 0.8, 0.7, 0.6, 0.95, 0.4]))
    wrong = (WrongImage("v/2.jpg", names[0], names[1], 0.8, 0.8, picture(9)),)
    ids = tuple(f"v/{number}.jpg" for number in range(6))
    return Answers(names, ids, labels, predicted, shares, "fixed", wrong)


def full_report() -> Report:
    series = Series((1, 2, 3), (0.2, 0.5, 0.7))
    best, low = tuple(map(picture, range(6))), tuple(map(picture, range(3)))
    return Report(
        title="clothing",
        created_utc="2026-01-02 03:04 UTC",
        headline=Headline(top1=0.812, gain=6.25, images_labelled=2709, duplicates_removed=43),
        stages=(
            StageRow("teacher", "2026-01-02 03:04:05", 800, 799, 3725.0, 58.21, "3fa92c"),
            StageRow("export"),
        ),
        accuracies=(
            AccuracyRow("teacher", "ResNet50_vd", 224, 0.8952, 0.9919, 372, None, 23529322),
            AccuracyRow("baseline", "MobileNetV3", 192, 0.7493, 0.97041, 50_000, None, 1528106),
            AccuracyRow(
                "fixed",
                "MobileNetV3",
                288,
                0.812,
                0.978,
                372,
                -1.25,
                1528107,
                (-4, 1.5),
                2,
                (0.5, 3.5),
            ),
        ),
        answers=some_answers(),
        curves=(Curve("teacher", series, series, series),),
        duplicates=(
            DuplicatePair(
                "p/1.jpg", "v/1.jpg", "sift", 0.93, 1031, 0.4, "accepted", best[0], "crop50"
            ),
            DuplicatePair("p/2.jpg", "v/2.jpg", "sift", 0.51, 9, -0.04, "refused", None),
            DuplicatePair("p/3.jpg", "v/3.jpg", "phash", 0.95, 0, 0.15, "sample", best[1]),
        ),
        planted=(PlantedRow("crop50", 9, 10), PlantedRow("blur", 5, 6)),
        canaries=(PlantedRow("jpeg 30", 190, 200),),
        too_few_features=12,
        val_too_few_features=3,
        selection=SelectionSummary(
            "best",
            (
                ClassSample("dress", 198, 2000, 0.4127, best, low),
                ClassSample("hat", 0, 2000, None),
                ClassSample("shirt", 2000, 2000, 0.9),
            ),
            Histogram((0, 0.5, 1), (50, 148)),
            Histogram((0, 1, 2), (2000, 709)),
        ),
        reconciliation=(CountRow("dedup", 2809, 2709, 98, 2), CountRow("label", 10, 8, 0, 1)),
        left_out=LEFT_OUT,
        settings_yaml="seed: 7\nteacher:\n  epochs: 30\n",
        versions={"numpy": "2.3.2"},
        files={"duplicates": "dedup/91c0/duplicates.parquet"},
    )


def hostile_answers() -> Answers:
    found = some_answers((HOSTILE, HOSTILE + "b", HOSTILE + "c"))
    wrong = replace(found.wrong[0], image_id=HOSTILE)
    predicted = {HOSTILE: found.predicted["fixed"], "teacher": found.predicted["teacher"]}
    shares = {HOSTILE: found.probability["fixed"], "teacher": found.probability["teacher"]}
    changed = {"predicted": predicted, "probability": shares, "student": HOSTILE}
    return replace(found, wrong=(wrong,), **changed)


def hostile_report() -> Report:
    report, word = full_report(), HOSTILE
    return replace(
        report,
        title=word,
        created_utc=word,
        answers=hostile_answers(),
        stages=(StageRow(word, word, 1, 1, 1.0, 1.0, word),),
        accuracies=(replace(report.accuracies[0], label=word, architecture=word),),
        curves=(replace(report.curves[0], stage=word, x_name=word),),
        duplicates=(
            DuplicatePair(word, word, word, 1.0, 9, 0.1, "accepted", picture(0), word),
            DuplicatePair(word, word, word, 1.0, 9, 0.1, "sample", None, word),
        ),
        planted=(PlantedRow(word, 1, 2),),
        canaries=(PlantedRow(word, 1, 2),),
        selection=replace(
            report.selection, classes=(replace(report.selection.classes[0], name=word),)
        ),
        reconciliation=(CountRow(word, 1, 1, 0, 0),),
        left_out=(LeftOut(word, word, 1),),
        settings_yaml=word,
        versions={word: word},
        files={word: word},
    )


@pytest.fixture(scope="module")
def full_html() -> str:
    return page.render(full_report())


@pytest.fixture(scope="module")
def full(full_html: str) -> Page:
    return Page(full_html)


@pytest.fixture(scope="module")
def hostile_html() -> str:
    return page.render(hostile_report())


def addresses(content: Page) -> Iterator[str]:
    for _, attributes in content.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            if name in attributes:
                yield attributes[name]


def test_equal_reports_give_equal_pages(full_html: str) -> None:
    assert page.render(full_report()) == full_html


def test_nothing_leaves_the_page(full_html: str, full: Page) -> None:
    found = list(addresses(full))
    assert len(found) > 20
    assert all(address.startswith(("data:", "#")) for address in found)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"data:[^\"]*", "", full_html))


def test_every_contents_link_has_its_section(full: Page) -> None:
    links = [a["href"][1:] for tag, a in full.elements if tag == "a"]
    assert links == [a["id"] for tag, a in full.elements if tag == "section"]
    assert links[0] == "accuracy" and len(links) == 13


def test_a_policy_forbids_scripts_and_the_network(full: Page) -> None:
    policy = [
        a["content"] for tag, a in full.elements if "security" in a.get("http-equiv", "").lower()
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_user_text_never_becomes_markup(hostile_html: str) -> None:
    content = Page(hostile_html)
    assert {tag for tag, _ in content.elements} <= ELEMENTS
    assert not [name for _, a in content.elements for name in a if name.startswith("on")]
    assert "alert(1)</script" not in hostile_html
    assert hostile_html.encode("utf-8")
    for section in ("accuracy", "stages", "contamination", "selection", "left-out", "settings",
                    "reconciliation", "versions", "files", ""):  # fmt: skip
        assert SEEN.replace("_", " ") in content.text[section], section


def test_user_text_stays_inside_its_alt_text(hostile_html: str) -> None:
    alts = [a["alt"] for tag, a in Page(hostile_html).elements if tag == "img"]
    assert f"pool image {SEEN} beside validation image {SEEN}" in alts
    assert f"among the highest scores of {SEEN}" in alts


def test_every_picture_has_an_alt_text_and_decodes(full: Page) -> None:
    pictures = [a for tag, a in full.elements if tag == "img"]
    assert len(pictures) == 5 + 1 + 2 + 9  # charts, mistake, pairs (one is missing), class
    for attributes in pictures:
        assert attributes["alt"].strip()
        head, _, body = attributes["src"].partition(";base64,")
        start = {"data:image/jpeg": b"\xff\xd8", "data:image/svg+xml": b"<?xml"}[head]
        assert base64.b64decode(body, validate=True).startswith(start)


def test_sections_have_their_headings_in_order(full: Page) -> None:
    levels = [int(tag[1]) for tag, _ in full.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and levels.count(2) == 13
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_accuracy_numbers_are_the_models() -> None:
    full = Page(page.render(replace(full_report(), answers=Answers())))
    assert full.body("accuracy") == [
        ["teacher", "ResNet50_vd", "89.5", "99.2", "\u2013", "\u2013", "224", "372", "23,529,322"],
        [
            "baseline",
            "MobileNetV3",
            "74.93",
            "97.04",
            "\u2013",
            "\u2013",
            "192",
            "50,000",
            "1,528,106",
        ],
        [
            "fixed",
            "MobileNetV3",
            "81.2",
            "97.8",
            "\u22121.2\u22124.0 to +1.5, within noise",
            "+2.0+0.5 to +3.5",
            "288",
            "372",
            "1,528,107",
        ],
    ]


def test_mistakes_are_the_students(full: Page) -> None:
    rows = [["dress", "hat", "1", "2"], ["shirt", "hat", "1", "2"]]
    assert full.body("mistakes") == rows
    text = " ".join(full.text["mistakes"].split())
    assert "1 image. dress, the student says hat (80.0 %; the teacher is right at 80.0 %)" in text
    assert full.body("classes") == [
        ["dress", "2", "100.0", "50.0", "50.0"],
        ["shirt", "2", "50.0", "0.0", "50.0"],
        ["hat", "2", "100.0", "50.0", "100.0"],
    ]


def test_calibration_is_the_mean_gap() -> None:
    by_model = {found.model: found for found in some_answers().calibration()}
    assert list(by_model) == ["teacher", "baseline", "fixed"]
    gaps = [0.1 + 0.05, 0.2, 0.3, 0.4, 0.4]  # of 0.9 and 0.95 in one bin, twice as many
    assert by_model["teacher"].error == pytest.approx(sum(gaps) / 6)
    assert by_model["baseline"].number.sum() == 5
    assert math.isnan(
        Answers((), (), np.zeros(0, int), {"a": np.zeros(0, int)}, {"a": np.zeros(0)}, "a")
        .calibration()[0]
        .error
    )


def test_many_classes_have_no_matrix() -> None:
    names = tuple(map(str, range(60)))
    content = Page(page.render(replace(Report("t", "now"), answers=some_answers(names))))
    assert len(content.body("mistakes")) == 2
    assert "Confusion" not in content.text["mistakes"]


def test_stage_numbers_are_the_models(full: Page) -> None:
    assert full.body("stages") == [
        ["teacher", "2026-01-02 03:04:05", "800", "799", "1\u00a0h 02\u00a0min", "100.0", "58.2",
         "3fa92c"],
        ["export", "\u2013", "\u2013", "\u2013", "\u2013", "\u2013", "\u2013", "\u2013"],
        ["sum of the stages", "", "", "", "1\u00a0h 02\u00a0min", "", "", ""],
    ]  # fmt: skip


def test_contamination_numbers_are_the_models(full: Page) -> None:
    assert full.body("contamination") == [
        ["crop50", "10", "9", "90.0", "59.6 to 98.2"],
        ["blur", "6", "5", "83.3", "43.6 to 97.0"],
        ["all", "16", "14", "87.5", "64.0 to 96.5"],
        ["Transform", "Planted", "Found", "Recall, %", "Interval, %"],
        ["jpeg 30", "200", "190", "95.0", "91.0 to 97.3"],
        ["all", "200", "190", "95.0", "91.0 to 97.3"],
    ]
    text = " ".join(full.text["contamination"].split())
    assert "Found in this run: 43." in text
    assert "to be relied on, which were kept: 12." in text
    assert "whose copies only hashes can find: 3." in text
    accepted, refused, sample = (
        text.index(title) for title in ("Accepted by the", "Refused by the", "Some of each channel")
    )
    assert accepted < refused < sample
    found = "p/1.jpg v/1.jpg sift, score 0.930, margin +0.400, 1,031 inliers; planted: crop50"
    assert found in text[accepted:refused]
    near = "picture not available p/2.jpg v/2.jpg sift, score 0.510, margin -0.040, 9 inliers"
    assert near in text[refused:sample]
    assert "p/3.jpg v/3.jpg phash, score 0.950, margin +0.150" in text[sample:]


def test_a_search_by_itself_has_a_page() -> None:
    report = SearchReport(
        {"in": 1200, "duplicates": 3, "not_an_image": 7},
        (PlantedRow(HOSTILE, 5, 6),),
        (*full_report().duplicates, *hostile_report().duplicates),
    )
    content = Page(page.render_search(report))
    assert content.body("counts")[0] == ["in", "1,200"]
    assert content.body("recall")[0][:4] == [SEEN, "6", "5", "83.3"]
    assert content.text["pairs"].count(SEEN) == 9
    assert {tag for tag, _ in content.elements} <= ELEMENTS
    assert all(not key.startswith("on") for _, attributes in content.elements for key in attributes)
    empty = Page(page.render_search(SearchReport({"in": 0, "duplicates": 0}, within=True)))
    assert "No altered copies were searched for" in empty.text["recall"]
    assert "nor nearly" in empty.text["pairs"]


def test_selection_numbers_are_the_models(full: Page) -> None:
    text = " ".join(full.text["selection"].split())
    assert "dress 198 of 2,000 wantedlowest score 0.413" in text
    assert full.body("selection") == [["hat", "0", "2,000"], ["dress", "198", "2,000"]]
    assert "0 where it is sure, 1.10 where all classes seem alike" in text  # ln 3


def test_a_selection_at_random_is_called_that_and_leaves_no_class_unfilled() -> None:
    selection = replace(full_report().selection, policy="random")
    content = Page(page.render(replace(Report("t", "now"), selection=selection)))
    assert "drawn at random" in content.text["selection"]
    assert "score for that class is highest" not in content.text["selection"]
    assert "selection" not in content.rows


def test_a_filled_selection_is_called_that() -> None:
    selection = SelectionSummary(classes=(ClassSample("hat", 5, 5, 0.5),))
    content = Page(page.render(replace(Report("t", "now"), selection=selection)))
    assert "Every class was filled." in content.text["selection"]


def test_left_out_by_stage_and_reason(full: Page) -> None:
    rows = [["dedup", "not an image", "1,200", ""], ["dedup", "empty", "3", "a.jpg, b.jpg, …"]]
    assert full.body("left-out") == rows


def test_labelled_images_that_show_validation_images_have_a_section() -> None:
    rows = (CleanRow("fixed", 0.812, 0.75, 370),)
    found = Overlap(2, 1, False, full_report().duplicates[:1], rows)
    content = Page(page.render(replace(Report("t", "now"), overlap=found)))
    assert "2 labelled images show 1 of the validation images" in content.text["overlap"]
    assert "overlap.remove=true leaves them out" in content.text["overlap"]
    assert content.body("overlap") == [["fixed", "81.2", "75.0", "370"]]
    content = Page(page.render(replace(Report("t", "now"), overlap=Overlap(0, 0, False))))
    assert "No labelled image shows a validation image." in content.text["overlap"]
    assert "overlap" not in Page(page.render(Report("t", "now"))).text


def test_reconciliation_says_what_is_missing(full: Page) -> None:
    assert full.body("reconciliation") == [
        ["dedup", "2,809", "2,709", "98", "2", "yes"],
        ["label", "10", "8", "0", "1", "1 missing"],
    ]


def test_settings_versions_and_files_are_shown(full: Page) -> None:
    assert full_report().settings_yaml in full.text["settings"]
    assert full.body("versions") == [["numpy", "2.3.2"]]
    assert full.body("files") == [["duplicates", "dedup/91c0/duplicates.parquet"]]


@pytest.mark.parametrize(
    ("headline", "sentence"),
    [
        (Headline(), "This run has not measured anything yet."),
        (
            Headline(top1=0.5, gain=-10.0, gain_range=(-12, -8), doubt="a and b differ"),
            "The student reaches 50.0 % top-1; the baseline is better by 10.0 points: labels "
            "alone serve you better here. A and b differ.",
        ),
        (Headline(top1=math.nan), "This run has not measured anything yet."),
        (Headline(top1=0.5), "The student reaches 50.0 % top-1."),
        (
            Headline(0.812, 6.26, 2709, 43),
            "The student reaches 81.2 % top-1, 6.3 points above the same student trained on "
            "labels alone; 2,709 pool images were labelled, 43 others showed a validation image "
            "and were removed.",
        ),
        (
            Headline(0.7, -2.0),
            "The student reaches 70.0 % top-1; the baseline is better by 2.0 points: labels alone "
            "serve you better here.",
        ),
        (
            Headline(0.7, -2.0, gain_range=(-5.0, 1.0)),
            "The student reaches 70.0 % top-1; the baseline, trained on labels alone, is better by "
            "2.0 points, within noise.",
        ),
        (
            Headline(0.7, 0.04, 1),
            "The student reaches 70.0 % top-1, the same as when trained on labels alone; "
            "1 pool image was labelled.",
        ),
        (
            Headline(images_labelled=5, duplicates_removed=1),
            "5 pool images were labelled, 1 other showed a validation image and was removed.",
        ),
        (
            Headline(0.5, images_labelled=54, duplicates_removed=1, has_pool=False),
            "The student reaches 50.0 % top-1; it learnt from 54 labelled images alone, without a "
            "pool.",
        ),
        (
            Headline(duplicates_removed=2),
            "2 pool images showed a validation image and were removed.",
        ),
        (
            Headline(duplicates_removed=0),
            "None of the pool's images showed a validation image.",
        ),
    ],
)
def test_summary(headline: Headline, sentence: str) -> None:
    assert page.summary(headline) == sentence


def test_the_page_begins_with_the_summary(full: Page) -> None:
    assert page.summary(full_report().headline) in full.text[""].replace("\u00a0", " ")


def test_without_a_pool_nothing_speaks_of_one() -> None:
    headline = Headline(0.5, images_labelled=54, duplicates_removed=1, has_pool=False)
    text = Page(page.render(replace(full_report(), headline=headline))).text
    assert "54 labelled images alone, without a pool" in text[""].replace("\u00a0", " ")
    assert "There is no pool" in text["contamination"]
    assert "There is no pool" in text["selection"]
    every = " ".join(text[section] for section in ("", "contamination", "selection"))
    assert not re.search("pool image|images of the pool|pool's", every)


def test_a_selection_of_nothing_is_no_table_of_empty_classes() -> None:
    report = Report("t", "now", selection=SelectionSummary("none"))
    assert "select.policy: none" in Page(page.render(report)).text["selection"]


@pytest.mark.parametrize(("num", "has_top5"), [(3, False), (5, False), (6, True)])
def test_a_top5_that_cannot_be_wrong_is_not_shown(num: int, has_top5: bool) -> None:
    answers = some_answers(tuple(map(str, range(num))))
    html = page.render(replace(full_report(), answers=answers))
    assert ("Top-5" in html) == has_top5


def test_an_empty_report_says_so_in_words() -> None:
    content = Page(page.render(Report("nothing", "now")))
    assert not {"table", "figure", "img", "details", "pre"} & {tag for tag, _ in content.elements}
    assert len([a for _, a in content.elements if a.get("class") == "none"]) == 14
    for section, words in {
        "accuracy": "No accuracy was measured",
        "contamination": "The search for duplicates has not run",
        "left-out": "No image has been read yet",
    }.items():
        assert words in content.text[section]


ALONE = {
    name: {name: getattr(full_report(), name)}
    for name in ("stages", "accuracies", "answers", "curves", "duplicates", "planted", "selection",
                 "reconciliation", "left_out", "settings_yaml", "versions", "files", "headline")
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_each_part_stands_alone(name: str) -> None:
    content = Page(page.render(replace(Report("partial", "now"), **ALONE[name])))
    parts = [a for _, a in content.elements if a.get("class") == "none"]
    assert len(parts) == {"headline": 14, "answers": 11}.get(name, 13)


def test_no_duplicates_is_told_from_no_search() -> None:
    for removed, words in {0: "No pool image shows", 7: "No pictures of the pairs"}.items():
        report = replace(Report("t", "now"), headline=Headline(duplicates_removed=removed))
        assert words in Page(page.render(report)).text["contamination"]


def test_odd_numbers_do_not_break_the_page() -> None:
    report = Report(
        "odd",
        "now",
        stages=(StageRow("s", "", 0, 0, math.nan, math.inf),),
        accuracies=(AccuracyRow("fixed", "n", 224, math.nan, math.nan, 0, math.nan, 0),),
        planted=(PlantedRow("none", 0, 0),),
        selection=SelectionSummary(classes=(ClassSample("hat", 0, 10, None),)),
    )
    content = Page(page.render(report))
    dash = "\u2013"
    assert content.body("accuracy") == [["fixed", "n", dash, dash, dash, dash, "224", "0", "0"]]
    assert content.body("stages")[0] == ["s", dash, "0", "0", dash, dash, dash, dash]
    assert content.body("contamination")[0] == ["none", "0", "0", dash, dash]
    assert "no picture" in content.text["selection"]


def test_more_than_can_be_shown_is_counted() -> None:
    report, num_pairs, num_classes = full_report(), page.MAX_PAIRS + 1, page.MAX_CLASSES + 1
    pair, sample = replace(report.duplicates[0], picture=None), ClassSample
    many = replace(
        Report("many", "now"),
        duplicates=(pair,) * num_pairs,
        selection=SelectionSummary(
            classes=tuple(sample(f"class {i}", 1, 2, 0.5) for i in range(num_classes))
        ),
    )
    content = Page(page.render(many))
    assert f"The first {page.MAX_PAIRS} of {num_pairs} pairs " in content.text["contamination"]
    assert f"The first {page.MAX_CLASSES} of {num_classes} classes." in content.text["selection"]
    assert f"The first {page.MAX_CLASSES} of {num_classes}." in content.text["selection"]
    assert len(content.body("selection")) == page.MAX_CLASSES
    assert content.text["contamination"].count("p/1.jpg") == page.MAX_PAIRS


def photo_like(seed: int) -> np.ndarray:
    """A picture with a photograph's share of detail: soft shapes and grain."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (25, 25, 3)).repeat(8, 0).repeat(8, 1)
    return (coarse + generator.normal(0, 8, coarse.shape)).clip(0, 255).astype(np.uint8)


def test_forty_pairs_and_fifteen_classes_stay_under_three_megabytes() -> None:
    report, images = full_report(), [photo_like(seed) for seed in range(4)]
    both = np.repeat(np.repeat(np.hstack(images[:2]), 2, axis=0), 2, axis=1)[:264, :536]
    pair = replace(report.duplicates[0], picture=both)
    sample = ClassSample("dress", 9, 9, 0.5, (images[2],) * 6, (images[3],) * 3)
    selection = SelectionSummary(classes=(sample,) * 15)
    html = page.render(replace(report, duplicates=(pair,) * 40, selection=selection))
    assert len(html.encode("utf-8")) < 3_000_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.41, "0.4 s"), (59.97, "1 min 00 s"), (185.4, "3 min 05 s"), (3599.7, "1 h 00 min"),
     (7620, "2 h 07 min"), (273_600, "3 d 04 h")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    content = Page(page.render(Report("t", "now", stages=(StageRow("s", "x", seconds=seconds),))))
    assert content.body("stages")[0][4].replace("\u00a0", " ") == text


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_title_survives(title: str) -> None:
    html = page.render(Report(title, "now"))
    assert html.encode("utf-8")
    assert {tag for tag, _ in Page(html).elements} <= ELEMENTS
