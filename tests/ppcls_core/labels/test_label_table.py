"""Files of labels computed elsewhere: every form read alike, and found again by image id."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels import table
from ppcls_core.labels.config import LabelFileConfig, class_order
from ppcls_core.labels.table import LabelRows, import_labels

CLASSES = ("w", "x", "y", "z")
NUM = 500
IDS = [f"a/{n:05d}.jpg" for n in range(NUM)]
LOGITS = np.random.default_rng(0).normal(0, 3, (NUM, 4)).astype(np.float32)
PROBABILITIES = np.exp(log_softmax(LOGITS)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(table, "_PIECE", 400)  # 100 rows


def columns(values: np.ndarray, names: str = "zxyw") -> pa.Table:
    return pa.table({"image_id": IDS, **{n: values[:, CLASSES.index(n)] for n in names}})


def lists(values: np.ndarray, kind: pa.DataType) -> pa.Table:
    return pa.table({"image_id": IDS, "out": pa.array(list(values.astype(np.float64))).cast(kind)})


def write(path, rows: pa.Table, **given_as) -> LabelFileConfig:
    if path.suffix == ".csv":
        pa.csv.write_csv(rows, path)
    else:
        pq.write_table(rows, path, row_group_size=170)
    return LabelFileConfig(labels=str(path), **given_as)


@pytest.mark.parametrize(
    ("name", "rows", "outputs"),
    [
        ("a.parquet", columns(LOGITS), "logits"),
        ("a.parquet", columns(PROBABILITIES), "probabilities"),
        ("a.csv", columns(LOGITS), "logits"),
        ("a.CSV", columns(PROBABILITIES), "probabilities"),
        ("a.parquet", lists(LOGITS, pa.list_(pa.float32())), "logits"),
        ("a.parquet", lists(LOGITS, pa.list_(pa.float64(), 4)), "logits"),
        ("a.parquet", lists(PROBABILITIES, pa.large_list(pa.float32())), "probabilities"),
        (
            "a.parquet",
            columns(LOGITS).cast(
                pa.schema([("image_id", pa.large_string()), *[(n, pa.float64()) for n in "zxyw"]])
            ),
            "logits",
        ),
    ],
)
def test_every_form_gives_the_same_labels(tmp_path, name, rows, outputs):
    path = tmp_path / name
    config = write(tmp_path / name.lower(), rows, outputs=outputs)
    (tmp_path / name.lower()).rename(path)
    config = config.model_copy(update={"labels": str(path)})
    assert import_labels(config, CLASSES, tmp_path / "out.parquet") == NUM
    asked = [*IDS[::-3], "", "a/00000.jpf", "zz"]
    got, found = LabelRows(tmp_path / "out.parquet").find(asked)
    assert found.tolist() == [True] * (len(asked) - 3) + [False] * 3
    np.testing.assert_allclose(log_softmax(got[found]), log_softmax(LOGITS[::-3]), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(), unique=True, min_size=1, max_size=40), st.data())
def test_any_ids_are_found_and_no_others(tmp_path_factory, ids, data):
    folder = tmp_path_factory.mktemp("ids")
    ids = [i for i in ids if i.encode(errors="ignore").decode() == i] or ["a"]
    known = sorted(
        data.draw(st.lists(st.sampled_from(ids), unique=True, min_size=1)), key=str.encode
    )
    rows = pa.table({"image_id": known, "a": range(len(known)), "b": [0] * len(known)})
    config = write(folder / "x.parquet", rows)
    import_labels(config, ("a", "b"), folder / "out.parquet")
    got, found = LabelRows(folder / "out.parquet").find(ids)
    assert found.tolist() == [i in known for i in ids]
    assert got[found, 0].tolist() == [known.index(i) for i in ids if i in known]


def nan() -> np.ndarray:
    values = LOGITS.copy()
    values[250, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("rows", "given_as", "message"),
    [
        (columns(LOGITS), {"outputs": "probabilities"}, r"row 1 .*set `outputs: logits`"),
        (columns(PROBABILITIES), {}, r"row 1 .*set `outputs: probabilities`"),
        (columns(PROBABILITIES / 2), {"outputs": "probabilities"}, "whose sum is not 1"),
        (columns(nan()), {}, r"row 251 \(a/00250.jpg\) has NaN or infinity"),
        (columns(LOGITS).take([*range(120), 119]), {}, r"row 121 .*has the image_id of the row"),
        (columns(LOGITS).take([*range(100), 99]), {}, r"row 101 .*has the image_id of the row"),
        (columns(LOGITS).take([*range(100), 7]), {}, r"row 101 .*comes after 'a/00099.jpg': sort"),
        (columns(LOGITS, "wxy"), {}, r"its 3 classes are not the 4 of the data set; it lacks 'z'"),
        (columns(LOGITS).append_column("q", [range(NUM)]), {}, r"only it has 'q'"),
        (columns(LOGITS).drop_columns(["image_id"]), {}, "expected one column image_id"),
        (columns(LOGITS).slice(0, 0), {}, "has no row"),
        (pa.table({"image_id": ["a", None], "o": [[1.0, 2, 3, 4]] * 2}), {}, "row 2 .*has no"),
        (pa.table({"image_id": IDS[:2], "o": [[1.0, 2, 3, 4], [1.0]]}), {}, "row 2 .*has 1"),
        (pa.table({"image_id": IDS[:2], "o": [[1.0, 2, 3, 4], None]}), {}, "row 2 .*has 0"),
        (pa.table({"image_id": IDS[:2], "o": [["w"], ["x"]]}), {}, "has 1 number,"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_row(tmp_path, rows, given_as, message):
    config = write(tmp_path / "wrong.parquet", rows, **given_as)
    with pytest.raises(UserError, match=message):
        import_labels(config, CLASSES, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.csv", b"image_id,w,x,y,z\na,1,2,3,4\nb,1,2,3\n"),
        ("text.csv", b"image_id,w,x,y,z\na,1,2,3,4\nb,1,2,3,four\n"),
        ("utf16.csv", "image_id,w,x,y,z\na,1,2,3,4\n".encode("utf-16")),
        ("empty.csv", b""),
        ("empty.parquet", b""),
        ("cut.parquet", b"PAR1 and no more PAR1"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        import_labels(
            LabelFileConfig(labels=str(tmp_path / name)), CLASSES, tmp_path / "out.parquet"
        )


def test_damage_of_a_file_is_refused_or_harmless(tmp_path):
    config = write(tmp_path / "x.parquet", columns(LOGITS))
    content, rng, refused = (tmp_path / "x.parquet").read_bytes(), np.random.default_rng(0), 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[rng.integers(0, len(content))] ^= 0xFF
        (tmp_path / "x.parquet").write_bytes(damaged)
        try:
            import_labels(config, CLASSES, tmp_path / "out.parquet")
        except UserError:
            refused += 1
    assert refused > 4


def test_names_of_a_list_come_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("z\ny\nx\nw\n")
    rows = lists(LOGITS[:, ::-1], pa.list_(pa.float32()))
    config = write(tmp_path / "x.parquet", rows, classes=str(tmp_path / "names.txt"))
    import_labels(config, CLASSES, tmp_path / "out.parquet")
    got, _ = LabelRows(tmp_path / "out.parquet").find(IDS)
    np.testing.assert_array_equal(got, LOGITS)


def test_numbers_name_no_class():
    assert class_order(("0", "1"), ("cat", "dog"), "x") == (0, 1)
    assert class_order(("cat", "dog"), ("0", "1"), "x") == (0, 1)
    assert class_order(("dog", "cat"), ("cat", "dog"), "x") == (1, 0)
    with pytest.raises(UserError, match="x: its 3 classes are not the 2"):
        class_order(("0", "1", "2"), ("cat", "dog"), "x")
