"""The images that are predicted, what becomes of them, and how that is written."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.inputs import Picture, given_images
from ppcls_core.inference.outputs import PAGE, WRITERS, check_target, format_of, opened
from ppcls_core.inference.predict import Classifier, Guess, Row, classify
from ppcls_core.inference.sheet import MAX_TILES, check_sheet, write_sheet
from tests.support.images import write_jpeg

NAMES = ("tench", "großer weißer Hai", "a, b", "\u9b5a\x1b[31m", "four", "five")


@pytest.fixture
def folder(tmp_path):
    """a.jpg, b/c.PNG, b/cut.jpg (truncated); and what is passed over."""
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    write_jpeg(tmp_path / "a.jpg", 0)
    write_jpeg(tmp_path / "b" / "cut.jpg", 1)
    (tmp_path / "b" / "cut.jpg").write_bytes((tmp_path / "b" / "cut.jpg").read_bytes()[:-100])
    Image.new("RGB", (40, 40)).save(tmp_path / "b" / "c.PNG")
    write_jpeg(tmp_path / ".hidden" / "d.jpg", 2)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def found(*given):
    return [(picture.name, picture.label) for picture in given_images([str(x) for x in given])]


def test_folders_are_walked_and_files_taken_as_they_are_given(folder):
    inside = [(f"{folder}/{name}", None) for name in ("a.jpg", "b/c.PNG", "b/cut.jpg")]
    assert found(folder) == inside
    assert found(folder / "b" / "c.PNG", folder / "none.jpg", folder) == [
        inside[1],
        (f"{folder}/none.jpg", None),
        *inside,
    ]
    assert [picture.number for picture in given_images([str(folder)] * 2)] == list(range(6))


def test_lists_are_relative_to_themselves_and_may_have_labels(folder):
    lines = b"a.jpg 3\r\n\n  b/c.PNG\nmy photo 7.jpg 12\nb/\xff.jpg\n/abs.jpg 0"
    (folder / "list").write_bytes(lines)
    assert found(folder / "list") == [
        (f"{folder}/a.jpg", 3),
        (f"{folder}/b/c.PNG", None),
        (f"{folder}/my photo 7.jpg", 12),
        (f"{folder}/b/\\xff.jpg", None),
        ("/abs.jpg", 0),
    ]


def test_standard_input_is_a_list(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg 1\nb/c.PNG\n")))
    assert found("-") == [("a.jpg", 1), ("b/c.PNG", None)]


def test_an_image_of_another_name_is_no_list(folder):
    (folder / "a.jpg").rename(folder / "a.photo")
    assert found(folder / "a.photo") == [(f"{folder}/a.photo", None)]


def test_tars_are_read_in_place_and_what_is_no_image_is_told(folder):
    with tarfile.open(folder / "b" / "more.tar", "w") as archive:
        archive.add(folder / "a.jpg", "x/y.jpg")
    images = given_images([str(folder / "b" / "more.tar"), str(folder)])
    names = ("b/more.tar/x/y.jpg", "a.jpg", "b/c.PNG", "b/cut.jpg", "b/more.tar/x/y.jpg")
    assert [picture.name for picture in images] == [f"{folder}/{name}" for name in names]
    assert next(iter(images)).pixels(Preprocess(size=32)).shape == (3, 32, 32)
    assert images.lost == (
        f"passed over 2 files: 1 hidden ({folder}/.hidden/), 1 not an image ({folder}/notes.txt)"
    )


def test_no_image_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for given in (tmp_path, tmp_path / "empty.txt"):
        with pytest.raises(UserError, match="no image in"):
            found(given)


def test_an_empty_standard_input_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(UserError, match=r"standard input; .* or a list with a path a line"):
        found("-")


def predicted(logits, top_k=3):
    """Of each image its row of `logits`, by its brightness."""
    return Classifier(lambda pixels: logits[: len(pixels)], Preprocess(size=16), NAMES, top_k)


def test_each_image_has_a_row_in_order_whatever_happens(folder):
    os.mkfifo(folder / "b" / "pipe.jpg")  # reading it would wait for ever
    (folder / "b" / "text.jpg").write_text("no image")
    given = [str(folder), str(folder / "none.jpg"), str(folder / "a.jpg")]
    logits = np.array([[0, 1, 2, 3, 4, 5], [0, np.nan, 0, 0, 0, 0], [0] * 6], np.float32)
    for batch_size in (1, 2, 64):
        batches = classify(predicted(logits), given_images(given), batch_size, 2)
        rows = [row for batch in batches for row in batch]
        assert [row.picture.number for row in rows] == list(range(6))
        reasons = [row.reason for row in rows]
        bad = ["truncated", "not_an_image", "missing"]
        if batch_size == 1:
            assert reasons == ["", "", *bad, ""]
        if batch_size == 2:
            assert reasons == ["", "not_finite", *bad, ""]
        assert all(bool(row.guesses) == (not row.reason) for row in rows)


def test_classes_are_ranked_with_their_probabilities():
    logits = np.array([[1, 3, 3, 0, -1, 2], [-1e30, 1e30, 0, 0, 0, 0]], np.float32)
    first, second = predicted(logits).rank(logits)
    assert [guess.number for guess in first] == [1, 2, 5]  # of equal ones the lower number
    assert [guess.name for guess in first] == [NAMES[1], NAMES[2], NAMES[5]]
    share = np.exp(logits[0].astype(float))
    assert [guess.probability for guess in first] == pytest.approx((share / share.sum())[[1, 2, 5]])
    assert (second[0].number, second[0].probability) == (1, pytest.approx(1))


def rows_of(num):
    """Good ones, each third bad."""
    pixels = np.full((3, 16, 16), 128, np.uint8)
    for number in range(num):
        picture = Picture(number, f"{number}\\xff.jpg", Path(), 1)
        if number % 3 == 2:
            yield Row(picture, (), "empty", "the file has 0 bytes")
        else:
            yield Row(
                picture, [Guess(c, NAMES[c], 0.5 / (c + 1)) for c in (1, 2, 3)], pixels=pixels
            )


def written(form, path, rows):
    with opened(form, path, 3) as writer:
        writer.write(rows[:5])
        writer.write(rows[5:])
    return path.read_text(encoding="utf-8")


def test_json_lines_hold_everything(tmp_path):
    records = [
        json.loads(line) for line in written("json", tmp_path / "x", list(rows_of(7))).splitlines()
    ]
    assert len(records) == 7
    assert records[0] == {
        "image": "0\\xff.jpg",
        "label": 1,
        "predictions": [
            {"class": c, "name": NAMES[c], "probability": round(0.5 / (c + 1), 6)}
            for c in (1, 2, 3)
        ],
    }
    assert records[2] == {
        "image": "2\\xff.jpg",
        "label": 1,
        "reason": "empty",
        "detail": "the file has 0 bytes",
    }


def test_csv_has_equal_columns_in_every_line(tmp_path):
    text = written("csv", tmp_path / "x", list(rows_of(7)))
    table = list(csv.reader(io.StringIO(text)))
    assert {len(line) for line in table} == {4 + 3 * 3}
    assert table[1][:7] == ["0\\xff.jpg", "1", "", "", "1", NAMES[1], "0.250000"]
    assert table[3][:5] == ["2\\xff.jpg", "1", "empty", "the file has 0 bytes", ""]


def test_tables_come_a_page_at_a_time_and_steer_no_terminal(tmp_path):
    text = written("table", tmp_path / "x", list(rows_of(PAGE + 1)))
    assert sum(line.startswith("image ") for line in text.splitlines()) == 2
    assert f"{PAGE}\\xff.jpg" in text
    assert "\x1b" not in text


def test_a_name_of_several_lines_stays_in_its_row(tmp_path):
    guess = Guess(0, "two\nlines\tof\rthem", 0.5)
    rows = [
        Row(Picture(0, "a\nb.jpg", Path(), None), [guess]),
        Row(Picture(1, "c.jpg", Path(), None), (), "missing", "No such\nfile"),
    ]
    lines = written("table", tmp_path / "x", rows).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["a\\nb.jpg", "c.jpg"]
    assert r"two\nlines\tof\rthem" in lines[1]
    assert r"missing: No such\nfile" in lines[2]


def test_a_file_is_whole_or_absent(tmp_path):
    for form in WRITERS:
        with pytest.raises(RuntimeError), opened(form, tmp_path / "x", 3) as writer:
            writer.write(list(rows_of(3)))
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_form_is_the_one_asked_for_or_the_name_s(tmp_path):
    assert format_of(None, None) == format_of(None, tmp_path / "x.txt") == "table"
    assert format_of(None, tmp_path / "x.jsonl") == format_of("json", tmp_path / "x.csv") == "json"
    assert format_of(None, tmp_path / "x.CSV") == "csv"
    with pytest.raises(UserError, match="is a folder"):
        format_of("csv", tmp_path)


@pytest.mark.parametrize("num", [1, 2, 7, MAX_TILES + 9])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_sheet_shows_the_first_images(tmp_path, num, suffix):
    path = tmp_path / f"sheet{suffix}"
    write_sheet(path, list(rows_of(num)))
    with Image.open(path) as sheet:
        sheet.load()
    assert sheet.width > 200 * min(num, 6)
    assert sheet.height > 200 * -(-min(num, MAX_TILES) // 6)
    grey = np.asarray(sheet)[20:200, 20:200]
    assert np.abs(grey.astype(int) - 128).max() <= 3


def test_a_sheet_is_a_picture(tmp_path):
    for path in (tmp_path / "sheet.gif", tmp_path / "sheet"):
        with pytest.raises(UserError, match=r"ends in \.png or \.jpg"):
            check_sheet(path)


def test_results_go_over_earlier_results_alone(tmp_path):
    for name in ("rows.csv", "list.txt", "photo.jpg", "w.pdparams", "sidecar.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    check_target(tmp_path / "rows.csv", ["photo.jpg"])
    check_target(tmp_path / "new.dat", [])
    for name in ("list.txt", "photo.jpg", "w.pdparams", "sidecar.json", "link.csv"):
        with pytest.raises(UserError, match="give"):
            check_target(tmp_path / name, [str(tmp_path / "list.txt")])
    with pytest.raises(UserError, match="leave it out to write to standard output"):
        check_target(Path("-"), [])
    with pytest.raises(UserError, match="a device"):
        check_target(Path("/dev/null"), [])


def test_a_misspelt_place_of_images_is_warned_of(tmp_path, caplog):
    (tmp_path / "wardrobe/coats").mkdir(parents=True)
    given = given_images([str(tmp_path / "wardrob/coats"), str(tmp_path / "other")])
    assert len(given) == 2
    (told,) = caplog.messages
    assert f"did you mean '{tmp_path}/wardrobe/coats'?" in told
