"""The calls for a notebook give what the commands give, and show themselves without markup of
others."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data_catalog.base.config import UserError
from ppcls_core.inference.predict import Guess
from tasks.notebook import (
    FinishedRun,
    Guesses,
    Labels,
    Table,
    find_duplicates,
    html_table,
    open_model,
    run_recipe,
)
from tests.conftest import TINY
from tests.support.images import write_jpeg


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLD_HOME", str(tmp_path_factory.mktemp("home")))
        return run_recipe(TINY)


@pytest.mark.slow
def test_a_recipe_is_run_and_its_student_classifies(run: FinishedRun, tmp_path: Path) -> None:
    assert run.report.is_file()
    names = run.accuracies["model"].to_pylist()
    assert names == ["teacher", "baseline", "distill", "finetune", "fix"]
    shares = run.accuracies["top1_percent"].to_pylist()
    assert max(shares) > 1 and f"baseline {shares[1]:.1f} %" in repr(run)
    assert len(repr(run).splitlines()) == 1
    shown = run._repr_html_()
    assert all(name in shown for name in names)
    for seed in range(3):
        write_jpeg(tmp_path / f"{seed}.jpg", seed, 80, 90)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    model = run.model
    found = model.label(tmp_path)
    assert found.probabilities.shape == (4, len(model.classes))
    bad = np.isnan(found.probabilities).any(1)
    assert bad.tolist() == [bool(reason) for reason in found.table["reason"].to_pylist()]
    assert bad.sum() == 1
    np.testing.assert_allclose(found.probabilities[~bad].sum(1), 1, atol=1e-5)
    one = model(tmp_path / "1.jpg")
    assert len(one.guesses) == 5
    at = [Path(name).name for name in found.table["image"].to_pylist()].index("1.jpg")
    assert found.table["class"][at].as_py() == one.guesses[0].name
    with pytest.raises(UserError, match=r"bad\.jpg: cannot be classified: not an image"):
        model(tmp_path / "bad.jpg")
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "1.jpg")), cv2.COLOR_BGR2RGB)
    for same in (picture, Image.fromarray(picture)):
        assert model(same).guesses[0].name == one.guesses[0].name
    for other in (tmp_path, picture[None], picture.astype(np.float32), [1, 2]):
        with pytest.raises(UserError, match=r"is of 4 images|expected a file"):
            model(other)
    listed = model.label([tmp_path / "1.jpg", str(tmp_path / "2.jpg")])
    assert listed.table["reason"].to_pylist() == ["", ""]
    assert "bad.jpg" in found._repr_html_() and "classes" in model._repr_html_()
    assert str(model.folder) in repr(model) and "object at" not in repr(model)


@pytest.mark.slow
def test_until_a_stage(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLD_HOME", str(run.session.store.root.parent))
    part = run_recipe(TINY, [], until="label")
    with pytest.raises(UserError, match=r"got dict .*, expected settings"):
        run_recipe(TINY, {"select.k": 2})
    assert list(part.session.done) == ["data", "overlap", "dedup", "teacher", "label"]
    assert "label" in part._repr_html_()


def test_duplicates_are_a_table(tmp_path: Path) -> None:
    for name in ("pool", "val"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        small = rng.integers(0, 256, (40, 40, 3), np.uint8)
        picture = cv2.resize(small, (320, 320), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "pool" / f"{number}.png"), picture)
        if not number:
            cv2.imwrite(str(tmp_path / "val" / "copy.jpg"), picture)
    out = tmp_path / "out"
    found = find_duplicates(tmp_path / "pool", tmp_path / "val", out, "canaries=0")
    assert found.pairs["pool_id"].to_pylist() == ["0.png"]
    assert found.page.is_file()
    assert "0.png" in found._repr_html_()
    assert repr(found).startswith("1 pair (") and str(found.page) in repr(found)


def test_objects_print_as_a_line(tmp_path: Path) -> None:
    table = pa.table({"image": ["a", "b"], "class": ["x", None], "reason": ["", "not_an_image"]})
    labels = Labels(Table(table), np.zeros((2, 3), np.float32), ("x", "y", "z"))
    assert repr(labels) == (
        "soft labels of 2 images, 3 classes; 1 without, for the reason in `table`"
    )
    guesses = Guesses("a.jpg", [Guess(0, "cat", 0.9312), Guess(1, "dog", 0.05)])
    assert repr(guesses) == "a.jpg: cat 93.1 %, dog 5.0 %"


def test_tables_print_as_tables() -> None:
    arrow = pa.table(
        {
            "model": ["baseline", "fix"],
            "top1_percent": [59.13978, 69.3],
            "gain_points": [None, 10.1],
            "interval_points": [None, [7.8, 12.4]],
        }
    )
    lines = str(Table(arrow)).splitlines()
    assert lines[0].split() == arrow.column_names
    assert lines[1].split() == ["baseline", "59.1"]
    assert lines[2].split() == ["fix", "69.3", "10.1", "7.8", "to", "12.4"]
    assert lines[1].index("59.1") == lines[2].index("69.3") == lines[0].index("top1")
    many = Table(pa.table({"a": range(30), "b": range(30)}), ("b",))
    assert str(many).splitlines() == ["b", *map(str, range(20)), "20 of 30"]
    assert many["a"].to_pylist() == [*range(30)]
    assert str(Table(arrow.slice(0, 0))).split() == arrow.column_names
    assert "7.8 to 12.4" in Table(arrow)._repr_html_()


def test_mistakes_and_markup() -> None:
    with pytest.raises(UserError, match="did you mean"):
        find_duplicates("a", "b", "c", "canarys=0")
    with pytest.raises(UserError, match="no such folder or recipe"):
        open_model("nowhere")
    shown = html_table(["<b>"], [["<script>"]] * 30, 30)
    assert "<script>" not in shown and "20 of 30" in shown and shown.count("<tr>") == 21


def test_fractions_of_a_column_have_the_digits_that_the_largest_needs() -> None:
    columns = {
        "points": [55.0, -0.912, None],
        "share": [0.9312, 0.05, 1.0],
        "range": [[-4.78, 12.0], [1.0, 2.0], None],
        "images": [1, 20, 300],
    }
    lines = [line.split() for line in repr(Table(pa.table(columns))).splitlines()]
    assert lines == [
        ["points", "share", "range", "images"],
        ["55.0", "0.931", "-4.8", "to", "12.0", "1"],
        ["-0.9", "0.050", "1.0", "to", "2.0", "20"],
        ["1.000", "300"],
    ]
