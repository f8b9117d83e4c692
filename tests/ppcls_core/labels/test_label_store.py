"""Soft labels come back by image and view as they were written, and only to whom they belong."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from ppcls_core.labels.encoding import decode, encode
from ppcls_core.labels.shard import (
    FORMAT,
    Header,
    Origin,
    is_labelled,
    label_table,
    open_shard,
    write_labels,
)
from ppcls_core.labels.store import LabelStore

ORIGIN = Origin("0123456789abcdef" * 4, "fedcba9876543210" * 4)
ENCODINGS = ("int8", "fp16", "topk")


def logits_of(num, classes=20, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (num, classes)).astype(np.float32)


def write(folder, tables):
    for number, table in enumerate(tables):
        write_labels(table, folder / f"shard-{number:05}.labels.parquet")
    return folder


@st.composite
def stores(draw):
    """Shards of (image, view) rows in any order, some empty: [[(id, view), ...], ...]."""
    images = draw(st.lists(st.text(max_size=6), unique=True, max_size=12))
    views = draw(st.integers(1, 4))
    rows = [(image_id, view) for image_id in images for view in range(views)]
    if draw(st.booleans()):
        rows = draw(st.permutations(rows))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=25, deadline=None)
@given(stores(), st.data())
def test_every_view_is_found_in_any_order(tmp_path_factory, encoding, shards, data):
    header = Header(ORIGIN, 20, encoding)
    logits = {
        row: logits_of(1, seed=n) for n, row in enumerate(row for rows in shards for row in rows)
    }
    tables = []
    for rows in shards:
        ids, views = [image_id for image_id, _ in rows], [view for _, view in rows]
        values = np.concatenate([np.empty((0, 20), np.float32), *(logits[row] for row in rows)])
        tables.append(label_table(ids, values, header, (views, [7 * view for view in views])))
    folder = write(tmp_path_factory.mktemp("store"), tables)
    store = LabelStore.open(folder, origin=ORIGIN)
    assert len(store) == len(logits)
    ids = sorted({image_id for image_id, _ in logits} | {"no such image"})
    there = is_labelled(pa.chunked_array([ids]), folder)
    assert there.tolist() == [image_id != "no such image" for image_id in ids]
    assert store.header == header
    wanted = data.draw(
        st.lists(st.sampled_from(list(logits)), max_size=20) if logits else st.just([])
    )
    found = store.logprobs([image_id for image_id, _ in wanted], [view for _, view in wanted])
    assert found.shape == (len(wanted), 20)
    assert found.dtype == np.float32
    for row, logprobs in zip(wanted, found, strict=True):
        assert np.array_equal(logprobs, decode(encode(logits[row], encoding), encoding, 20)[0])
    if wanted:
        rows = pa.concat_tables(tables)
        order = [list(logits).index(row) for row in wanted]
        assert store.stored(*zip(*wanted, strict=True)) == rows.take(order)
    for absent in (("no such image", 0), *((image_id, 9) for image_id, _ in wanted[:1])):
        with pytest.raises(UserError, match=re.escape(f"image {absent[0]}, view {absent[1]};")):
            store.logprobs([absent[0]], [absent[1]])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_several_row_groups(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr("ppcls_core.labels.shard._GROUP_ROWS", 7)
    header, ids = Header(ORIGIN, 20, encoding), [f"{row:03}" for row in range(100)]
    logits = logits_of(100)
    tables = [label_table(ids[a : a + 10], logits[a : a + 10], header) for a in range(0, 100, 10)]
    store = LabelStore.open(write(tmp_path, [pa.concat_tables(tables)]))
    assert store.shards[0].metadata.num_row_groups == 15
    expected = decode(encode(logits, encoding), encoding, 20)
    assert np.array_equal(store.logprobs(ids), expected)
    assert np.array_equal(store.logprobs(ids[::-1]), expected[::-1])
    assert store.stored(ids[::-1], [0] * 100) == pa.concat_tables(tables).take(
        list(range(99, -1, -1))
    )


def test_a_row_group_of_many_classes_is_small(tmp_path):
    table = label_table(["a"] * 2, logits_of(2, 70_000), Header(ORIGIN, 70_000))
    assert table.schema.field("top_class").type.value_type == pa.int32()
    write_labels(pa.concat_tables([table] * 200), tmp_path / "a")
    assert pq.read_metadata(tmp_path / "a").row_group(0).num_rows == (1 << 24) // 70_001


def test_rows_of_a_real_shard_s_size_are_mapped(tmp_path):
    """Arrow begins a new page after 20,000 rows or 1 MB, if it is let."""
    one = label_table([""], logits_of(1, 100), Header(ORIGIN, 100))
    ids = pa.array([str(row) for row in range(33_000)])
    table = one.take(pa.array(np.zeros(33_000, np.int64))).set_column(
        0, one.schema.field("image_id"), ids
    )
    store = LabelStore.open(write(tmp_path, [table]))
    assert np.ptp(store.logprobs([str(row) for row in range(0, 33_000, 500)]), axis=0).max() == 0
    with pytest.raises(UserError, match="image 33000, view 0"):
        store.logprobs(["5", "33000"])


def test_columns_and_metadata_are_the_documented_ones(tmp_path):
    header = Header(ORIGIN, 20, precision="bf16")
    write_labels(label_table(["x"], logits_of(1), header, ([3], [99])), tmp_path / "a")
    schema = pq.read_schema(tmp_path / "a")
    kinds = {field.name: str(field.type) for field in schema}
    assert kinds == {
        "image_id": "string",
        "view": "int32",
        "seed": "int64",
        "top_class": "fixed_size_list<element: uint16 not null>[16]",
        "top_logprob": "fixed_size_list<element: float not null>[16]",
        "entropy": "float",
        "tail_high": "float",
        "tail_range": "float",
        "rest": "fixed_size_binary[20]",
    }
    assert not any(field.nullable for field in schema)
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert "pyarrow" in metadata.pop("libraries")
    assert metadata == {
        "format": FORMAT,
        "teacher": ORIGIN.teacher,
        "preprocessing": ORIGIN.preprocessing,
        "precision": "bf16",
        "encoding": "int8",
        "k": "16",
        "num_classes": "20",
    }
    assert open_shard(tmp_path / "a").header == header
    row = pq.read_table(tmp_path / "a").to_pylist()[0]
    assert (row["image_id"], row["view"], row["seed"]) == ("x", 3, 99)


def test_bytes_are_equal_for_equal_labels(tmp_path):
    table = label_table(["a", "b"], logits_of(2), Header(ORIGIN, 20))
    for name in ("a", "b"):
        write_labels(table, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bytes_of_an_imagenet_label(tmp_path):
    ids = [f"n{row % 1000:08}/n{row % 1000:08}_{row}.JPEG" for row in range(2000)]
    write_labels(label_table(ids, logits_of(2000, 1000), Header(ORIGIN, 1000)), tmp_path / "a")
    assert (tmp_path / "a").stat().st_size / 2000 < 1110


def test_threads_get_their_own_labels(tmp_path):
    ids, logits = [str(row) for row in range(500)], logits_of(500)
    store = LabelStore.open(write(tmp_path, [label_table(ids, logits, Header(ORIGIN, 20))]))
    whole = store.logprobs(ids)

    def read(seed):
        rows = np.random.default_rng(seed).integers(0, 500, 64)
        return np.array_equal(store.logprobs([ids[row] for row in rows]), whole[rows])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(100)))


def test_nan_is_an_error_that_names_an_image():
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = np.nan
    with pytest.raises(UserError, match=r"NaN for 1 of 3 images, the first: b; .*check teacher"):
        label_table(["a", "b", "c"], logits, Header(ORIGIN, 2))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("classes", [1, 1000])
def test_empty_shard(tmp_path, classes, encoding):
    table = label_table([], np.empty((0, classes), np.float32), Header(ORIGIN, classes, encoding))
    store = LabelStore.open(write(tmp_path, [table]))
    assert len(store) == 0
    assert store.logprobs([]).shape == (0, classes)


def test_labels_of_another_origin_are_refused(tmp_path):
    write(tmp_path, [label_table(["x"], logits_of(1), Header(ORIGIN, 20))])
    with pytest.raises(UserError, match=r"teacher 0123456789ab, expected fffff.*run the label"):
        LabelStore.open(tmp_path, origin=replace(ORIGIN, teacher="f" * 64))
    with pytest.raises(UserError, match="preprocessing fedcba987654, expected 1111"):
        LabelStore.open(tmp_path, origin=replace(ORIGIN, preprocessing="1" * 64))


@pytest.mark.parametrize(
    "other",
    [
        Header(replace(ORIGIN, teacher="other"), 20),
        Header(ORIGIN, 20, "fp16"),
        Header(ORIGIN, 20, "int8", "bf16"),
        Header(ORIGIN, 21),
        Header(ORIGIN, 20, k=5),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path, other):
    tables = [
        label_table([name], logits_of(1, header.num_classes), header)
        for name, header in (("a", Header(ORIGIN, 20)), ("b", other))
    ]
    with pytest.raises(UserError, match=r"00001.*made otherwise than shard-00000"):
        LabelStore.open(write(tmp_path, tables))


@pytest.mark.parametrize("places", [[["a", "b", "a"]], [["a"], ["b", "a"]]])
def test_a_view_that_is_there_twice_is_refused(tmp_path, places):
    header = Header(ORIGIN, 20)
    write(tmp_path, [label_table(ids, logits_of(len(ids)), header) for ids in places])
    with pytest.raises(UserError, match="image a, view 0 has another label"):
        LabelStore.open(tmp_path)


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        LabelStore.open(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no soft labels"):
        LabelStore.open(tmp_path)
    path = tmp_path / "shard-00000.labels.parquet"
    pq.write_table(pa.table({"image_id": ["x"]}), path)
    with pytest.raises(UserError, match="expected soft labels of format 1, got format unknown"):
        LabelStore.open(tmp_path)
    for content in (b"", b"PAR1", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            LabelStore.open(tmp_path)


def test_a_truncated_or_altered_shard_is_refused(tmp_path):
    table = label_table([str(n) for n in range(50)], logits_of(50), Header(ORIGIN, 20))
    path = write(tmp_path, [table]) / "shard-00000.labels.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-2000:])
    with pytest.raises(UserError, match=r"shard-00000.*run the label stage again"):
        LabelStore.open(tmp_path)
    pq.write_table(table.drop_columns(["entropy"]), path)
    with pytest.raises(UserError, match="columns are not those"):
        LabelStore.open(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compression": "NONE"}, {"use_dictionary": False}])
def test_a_file_that_cannot_be_mapped_is_refused_not_misread(tmp_path, options):
    table = label_table([str(n) for n in range(50)], logits_of(50), Header(ORIGIN, 20))
    pq.write_table(table, tmp_path / "shard-00000.labels.parquet", **options)
    with pytest.raises(UserError, match="cannot be mapped"):
        LabelStore.open(tmp_path)


def test_small_pages_are_refused_not_misread(tmp_path):
    table = label_table([str(n) for n in range(5000)], logits_of(5000), Header(ORIGIN, 20))
    path = tmp_path / "shard-00000.labels.parquet"
    pq.write_table(table, path, compression="NONE", use_dictionary=False, data_page_size=1000)
    with pytest.raises(UserError, match="cannot be mapped"):
        LabelStore.open(tmp_path)


def test_a_store_belongs_to_its_process(tmp_path):
    store = LabelStore.open(write(tmp_path, [label_table(["a"], logits_of(1), Header(ORIGIN, 20))]))
    with pytest.raises(TypeError, match="open it in each process"):
        pickle.dumps(store)
