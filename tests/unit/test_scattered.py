"""Folders of weights as Paddle 1.x wrote them, with Paddle itself as the judge."""

from __future__ import annotations

import struct

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from paddle.base import core

from ppcls_core.models.scattered import BadTensor, read_scattered, write_scattered

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=1, min_side=1, max_side=300))
)
HEADER = struct.pack("<IQI", 0, 0, 0)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(array=ARRAYS)
def test_what_is_written_is_read_by_us_and_by_paddle(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("weights")
    write_scattered(folder, {"conv1_weights": array, "block/conv/weights": array})
    got = read_scattered(folder)
    assert list(got) == ["block/conv/weights", "conv1_weights"]
    for value in got.values():
        np.testing.assert_array_equal(value, array, strict=True)
    theirs = paddle.load(str(folder))
    for name in got:
        np.testing.assert_array_equal(np.asarray(theirs[name]), array)


@pytest.mark.parametrize("dtype", ["float32", "int64", "float16"])
def test_what_paddle_writes_is_read(tmp_path, dtype):
    array = np.arange(600).reshape(2, 300).astype(dtype)
    tensor = core.DenseTensor()
    tensor.set(array, core.CPUPlace())
    core.save_dense_tensor(tensor, str(tmp_path / "w"))
    np.testing.assert_array_equal(read_scattered(tmp_path)["w"], array, strict=True)


def test_the_program_and_hidden_files_are_left_out(tmp_path):
    write_scattered(tmp_path, {"w": np.zeros(3, np.float32)})
    (tmp_path / "__model__").write_bytes(b"program")
    (tmp_path / ".DS_Store").write_bytes(b"finder")
    assert list(read_scattered(tmp_path)) == ["w"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "argument|truncated"),
        (b"hello world, this is text", "LoDTensor version"),
        (HEADER[:10], "truncated"),
        (HEADER, "truncated"),
        (HEADER + struct.pack("<i", -1), "truncated"),
        (HEADER + struct.pack("<i", 2) + b"\x08\x05" + b"123", "multiple of element size"),
        (HEADER + struct.pack("<i", 4) + b"\x08\x05\x10\x03" + bytes(8), "cannot reshape"),
        (HEADER + struct.pack("<i", 2) + b"\x08\x63", "data type 99"),
        (HEADER + struct.pack("<i", 2) + b"\x1a\x00", "field tag 26"),
        (HEADER + struct.pack("<i", 2) + b"\x08\x85", "truncated"),
        (struct.pack("<IQQ", 0, 1, 2**63), "truncated"),
        (struct.pack("<IQ", 0, 2**62), "truncated"),
        (HEADER + struct.pack("<i", 12) + b"\x08\x05\x10" + b"\xff" * 8 + b"\x7f", "."),
    ],
)
def test_other_files_are_refused(tmp_path, raw, reason):
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(BadTensor, match=rf"w: not a tensor of Paddle 1.x \(.*({reason})"):
        read_scattered(tmp_path)


@pytest.mark.parametrize("name", ["../w", "/etc/w", "a/../../w", ""])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(BadTensor, match="is no path below the folder"):
        write_scattered(tmp_path / "weights", {name: np.zeros(1, np.float32)})


def test_a_dtype_that_the_format_lacks(tmp_path):
    with pytest.raises(BadTensor, match="w: arrays of dtype uint64 are not written"):
        write_scattered(tmp_path, {"w": np.zeros(1, np.uint64)})
