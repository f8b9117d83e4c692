"""Folders of weights as Paddle 1.x wrote them, with Paddle itself as the judge."""

from __future__ import annotations

import io
import os
import struct
import tarfile

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from paddle.base import core

from ppcls_core.models.weights.paddle1 import BadTensor, read_folder, read_tar, write_folder

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=0, min_side=0, max_side=300))
)
HEADER = struct.pack("<IQI", 0, 0, 0)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(array=ARRAYS)
def test_what_is_written_is_read_by_us_and_by_paddle(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("weights") / "new/folder"
    write_folder(folder, {"conv1_weights": array, "block/conv/weights": array})
    got = read_folder(folder)
    assert list(got) == ["block/conv/weights", "conv1_weights"]
    for value in got.values():
        np.testing.assert_array_equal(value, array, strict=True)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    theirs = paddle.load(str(folder))
    for name in got:
        np.testing.assert_array_equal(np.asarray(theirs[name]), array)


@pytest.mark.parametrize("dtype", ["float32", "int64", "float16"])
def test_what_paddle_writes_is_read(tmp_path, dtype):
    array = np.arange(600).reshape(2, 300).astype(dtype)
    tensor = core.DenseTensor()
    tensor.set(array, core.CPUPlace())
    core.save_dense_tensor(tensor, str(tmp_path / "w"))
    np.testing.assert_array_equal(read_folder(tmp_path)["w"], array, strict=True)


def test_the_program_and_hidden_files_are_left_out(tmp_path):
    write_folder(tmp_path, {"w": np.zeros(3, np.float32)})
    (tmp_path / "__model__").write_bytes(b"program")
    (tmp_path / ".DS_Store").write_bytes(b"finder")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_bytes(b"settings")
    assert list(read_folder(tmp_path)) == ["w"]


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
        (HEADER + struct.pack("<i", 13) + b"\x08\x05\x10" + b"\xff" * 9 + b"\x7f", "dimension"),
        (HEADER + struct.pack("<i", 14) + b"\x08\x05\x10" + b"\xff" * 11, "more than ten bytes"),
        (HEADER + struct.pack("<i", 1 << 20) + b"\xff" * (1 << 20), "more than ten bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, raw, reason):
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(BadTensor, match=rf"w: not a tensor of Paddle 1.x \(.*({reason})"):
        read_folder(tmp_path)


ONE = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *[(name, "is no path below the folder") for name in ("../w", "/etc/w", "a/../../w", "")],
        *[(name, "is no path below the folder") for name in ("a//b", "a/", "./w", "a/.", "a\0b")],
        *[(name, "is one that reading leaves out") for name in (".w", "a/.b/c", "__model__")],
        *[(name, "is too long") for name in ("w" * 256, "\u20ac" * 86, "/".join("w" * 3000))],
        ("\ud800", "cannot be encoded in UTF-8"),
        ("good/b", "'good' is an array, and the folder of another"),
        ("good/b/c/d", "'good' is an array, and the folder of another"),
    ],
)
def test_names_that_would_not_be_read_back(tmp_path, name, reason):
    for arrays in ({"good": ONE, name: ONE}, {name: ONE, "good": ONE}):
        with pytest.raises(BadTensor, match=reason):
            write_folder(tmp_path / "weights", arrays)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["w" * 255, "a/__model__", "a.b/c..d", "a b\n\\", "\u20ac"])
def test_odd_names_are_read_back(tmp_path, name):
    write_folder(tmp_path / "weights", {name: ONE})
    assert list(read_folder(tmp_path / "weights")) == [name]


@pytest.mark.parametrize("array", [np.zeros(1, np.uint64), np.zeros(1, "c8"), np.array(["a"])])
def test_a_dtype_that_the_format_lacks(tmp_path, array):
    with pytest.raises(BadTensor, match=f"w: arrays of dtype {array.dtype} are not written"):
        write_folder(tmp_path / "weights", {"good": ONE, "w": array})
    with pytest.raises(BadTensor, match="no arrays"):
        write_folder(tmp_path / "weights", {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    sizes = []

    def fail_at_the_third(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        if len(sizes) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "weights", {f"a/{number}": ONE for number in range(4)})
    assert len(sizes) == 3 and min(sizes) > 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path):
    write_folder(tmp_path / "weights", {"old": ONE})
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "weights", {"new": ONE})
    assert list(read_folder(tmp_path / "weights")) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_names_that_utf_8_does_not_encode_are_not_read(tmp_path):
    write_folder(tmp_path / "weights", {"good": ONE})
    (tmp_path / "weights/good").rename(tmp_path / "weights" / os.fsdecode(b"w\xff"))
    with pytest.raises(BadTensor, match="cannot be encoded in UTF-8"):
        read_folder(tmp_path / "weights")


def tar_of(path, *members, mode="w"):
    """A tar of (name, content), or of what tarfile describes."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def described(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture(scope="module")
def tensor(tmp_path_factory):
    """The bytes of one variable."""
    folder = tmp_path_factory.mktemp("tensor")
    write_folder(folder, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    return (folder / "w").read_bytes()


@pytest.mark.parametrize("prefix", ["", "./", "Net_pretrained/", "./Net_pretrained/"])
def test_a_tar_is_read_as_its_folder(tmp_path, tensor, prefix):
    path = tar_of(
        tmp_path / "t.tar",
        described(prefix or "./", tarfile.DIRTYPE),
        *[(prefix + name, tensor) for name in ("b", "a/c")],
        (f"{prefix}.hidden", b"x"),
        (f"{prefix}__model__", b"program"),
    )
    assert list(read_tar(path)) == ["a/c", "b"]
    assert read_tar(path)["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [file.name for file in tmp_path.iterdir()] == ["t.tar"]


@pytest.mark.parametrize("name", ["../w", "/etc/w", "Net/../../w", "Net//w", "Net/./w", "Net/w/.."])
def test_names_that_lead_out_of_a_tar_are_refused(tmp_path, tensor, name):
    with pytest.raises(BadTensor, match="is no path below the folder"):
        read_tar(tar_of(tmp_path / "t.tar", ("Net/a", tensor), (name, tensor)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_of_a_tar_are_refused(tmp_path, tensor, kind):
    member = described("Net/b", kind, "/etc/passwd")
    with pytest.raises(BadTensor, match="is a link or another file without content"):
        read_tar(tar_of(tmp_path / "t.tar", ("Net/a", tensor), member))


def test_other_tars_are_refused(tmp_path, tensor):
    with pytest.raises(BadTensor, match="the tar is damaged"):
        read_tar(tar_of(tmp_path / "t.tar.gz", ("Net/a", tensor), mode="w:gz"))
    with pytest.raises(BadTensor, match="the folder holds no file"):
        read_tar(tar_of(tmp_path / "t.tar"))
    with pytest.raises(BadTensor, match=r"data\.txt: not a tensor of Paddle 1\.x"):
        read_tar(tar_of(tmp_path / "t.tar", ("Net/data.txt", b"text")))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_tar_is_refused_or_read(tmp_path, tensor, data):
    path = tar_of(tmp_path / "t.tar", ("Net/a", tensor), ("Net/b/c", tensor))
    content = bytearray(path.read_bytes()[: data.draw(st.integers(0, 4096))])
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        arrays = read_tar(path)
    except BadTensor:
        return
    assert all(array.nbytes <= len(content) for array in arrays.values())
