"""Labels come back as float16 keeps them, and only to whom they belong."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_catalog.config import UserError
from ppcls_core.labels.store import label_table, read_labels

PRINT = "0123456789abcdef" * 4
UNIT = 2.0**-11  # float16 rounds a normal number by at most this part of it
SUBNORMAL = 2.0**-25  # and a small one by at most this


def write(path, ids, logits, fingerprint=PRINT):
    pq.write_table(label_table(ids, logits, fingerprint), path, compression="zstd")
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 20), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=st.floats(-65504, 65504, width=32))
    )
)
def test_round_trip_is_within_half_precision(tmp_path_factory, logits):
    ids = [f"n{row}/ä {row}.jpg" for row in range(len(logits))]
    path = write(tmp_path_factory.mktemp("store") / "shard.parquet", ids, logits)
    got_ids, got = read_labels(path, PRINT)
    assert got_ids == ids
    assert got.dtype == np.float32
    assert got.shape == logits.shape
    assert (np.abs(got - logits) <= np.maximum(UNIT * np.abs(logits), SUBNORMAL)).all()


def test_columns_and_metadata_are_the_documented_ones(tmp_path):
    table = pq.read_table(write(tmp_path / "a", ["x"], np.zeros((1, 5), np.float32)))
    assert table.schema.names == ["image_id", "logits"]
    assert table.schema.field("image_id").type == pa.string()
    assert table.schema.field("logits").type.value_type == pa.float16()
    assert table.schema.field("logits").type.list_size == 5
    assert table.schema.metadata[b"teacher"] == PRINT.encode()


def test_logits_beyond_half_precision_keep_their_order(tmp_path):
    logits = np.array([[np.inf, 1e6, 70000, 3, -1e6, -np.inf]], np.float32)
    _, got = read_labels(write(tmp_path / "a", ["x"], logits), PRINT)
    assert np.isfinite(got).all()
    assert got[0].tolist() == [65504, 65504, 65504, 3, -65504, -65504]


def test_nan_is_an_error_that_names_an_image():
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = np.nan
    with pytest.raises(UserError, match=r"NaN for 1 of 3 images, the first: b; .*check teacher"):
        label_table(["a", "b", "c"], logits, PRINT)


@pytest.mark.parametrize("num_classes", [1, 1000])
def test_empty_shard(tmp_path, num_classes):
    path = write(tmp_path / "a", [], np.empty((0, num_classes), np.float32))
    ids, logits = read_labels(path, PRINT)
    assert ids == []
    assert logits.shape == (0, num_classes)


def test_several_row_groups_come_back_as_one(tmp_path):
    logits = np.arange(2000, dtype=np.float32).reshape(500, 4)
    ids = [str(row) for row in range(500)]
    pq.write_table(label_table(ids, logits, PRINT), tmp_path / "a", row_group_size=7)
    got_ids, got = read_labels(tmp_path / "a", PRINT)
    assert got_ids == ids
    assert np.array_equal(got, logits)


def test_labels_of_another_teacher_are_refused(tmp_path):
    path = write(tmp_path / "a", ["x"], np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match=r"by teacher 0123456789ab, expected fffff.*run the label"):
        read_labels(path, "f" * 64)
    pq.write_table(pa.table({"image_id": ["x"]}), path)
    with pytest.raises(UserError, match="by teacher unknown, expected 0123456789ab"):
        read_labels(path, PRINT)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def published_loss(student, teacher):
    """(loss, its gradient for the student's logits) of each image, in float64."""
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    p, q = np.exp(log_p), np.exp(log_q)
    divergence = (p * (log_p - log_q)).sum(-1, keepdims=True)
    loss = 0.5 * ((p - q) * (log_p - log_q)).sum(-1)
    return loss, 0.5 * (p - q + p * (log_p - log_q - divergence))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 4.0, 15.0]), st.sampled_from([3, 100, 1000]))
def test_half_precision_changes_the_published_loss_within_a_proven_bound(seed, scale, classes):
    """Let every teacher logit move by at most d; here d = 2^-11 max|logit|, about 0.01.

    A softmax then moves by at most d in L1 (dq_i = q_i (e_i - mean e), and mean |e - mean e| <= d).
    The loss is sum (p - q)(s - t) / 2, so it moves by at most d from t, and from q by d / 4 of the
    range of s - t (a constant added to s - t changes nothing). In the gradient (p - q) / 2 moves by
    at most d / 2 in L1 and p (log p/q - KL) / 2 by as much.
    """
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, 8, classes)).astype(np.float32)
    stored = label_table(["x"] * 8, teacher, PRINT)["logits"].combine_chunks()
    half = stored.flatten().to_numpy().reshape(8, classes).astype(np.float64)
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    bound = np.maximum(UNIT * np.abs(teacher).max(-1), SUBNORMAL)
    loss, gradient = published_loss(student, teacher)
    moved_loss, moved_gradient = published_loss(student, half)
    span = np.ptp(student - teacher, axis=-1)
    assert (np.abs(moved_loss - loss) <= bound * (1 + span / 4) + 1e-9).all()
    assert (np.abs(moved_gradient - gradient).sum(-1) <= bound + 1e-9).all()
