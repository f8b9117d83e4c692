"""Files of PyTorch, of before and after its version 1.6, written here by hand: which are read, and
that hostile ones do no harm.

Once, files that PyTorch 2 itself wrote were read alike: both formats, tied and transposed tensors,
parameters, every dtype.
"""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from ppcls_core.models.weights.files import load_state
from tests.ppcls_core.models.test_array_pickle import MB, NESTED, PER_TEST_FILE, Call, refused

CODES = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "u2", "Long": "i8", "Int": "i4"}
CODES |= {"Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "b1"}
FORMATS = ["zip", "legacy"]
MAGIC = 0x1950A86A20F9469CFC6C
W = np.arange(6, dtype=np.float32)


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<i", len(raw)) + raw


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def reference(key="0", num=6, kind="Float", tail=b""):
    where = text(key) + text("cpu") + number(num) + tail
    return b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + where + b"tQ"


def tensor(storage=None, offset=0, shape=(2, 3), strides=(3, 1)):
    storage = reference() if storage is None else storage
    layout = number(offset) + numbers(shape) + numbers(strides)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + hooks + b"tR"


def state_dict(**tensors):
    items = b"".join(text(name) + value for name, value in tensors.items())
    metadata = b"}" + text("_metadata") + b"}" + text("") + b"}" + text("version") + b"K\x01sssb"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + metadata + b"."


def archive(content, storages, *, compression=zipfile.ZIP_STORED, **others):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("net/data.pkl", content)
        for name, raw in {**others, **{f"data/{key}": raw for key, raw in storages}}.items():
            file.writestr(f"net/{name}", raw)
    return stream.getvalue()


def legacy(content, storages, *, little_endian=True, size=4):
    machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    start = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, machine))
    keys = pickle.dumps([key for key, _ in storages], protocol=2)
    ends = (struct.pack("<q", len(raw) // size) + raw for _, raw in storages)
    return start + content + keys + b"".join(ends)


def written(kind, content, raw=W.tobytes()):  # noqa: B008 - bytes do not change
    return (archive if kind == "zip" else legacy)(content, [("0", raw)])


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_are_views_of_storages(tmp_path, kind):
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor() + b"\x88Nt" + b"R"
    content = state_dict(
        whole=tensor(),
        turned=tensor(shape=(3, 2), strides=(1, 3)),
        part=tensor(offset=2, shape=(3,), strides=(1,)),
        spread=tensor(offset=1, shape=(2, 2), strides=(0, 1)),
        number=tensor(offset=5, shape=(), strides=()),
        empty=tensor(offset=6, shape=(0, 3), strides=(3, 1)),
        parameter=parameter,
    )
    (tmp_path / "w.pth").write_bytes(written(kind, content))
    state = load_state(tmp_path / "w.pth")
    whole = W.reshape(2, 3)
    want = {"whole": whole, "turned": whole.T, "part": W[2:5], "spread": W[[[1, 2], [1, 2]]]}
    want |= {"number": W[5], "empty": np.zeros((0, 3), "f4"), "parameter": whole}
    assert list(state) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(state[name], array, strict=name != "number")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", CODES)
def test_every_type_of_storage_is_read(tmp_path, kind, name):
    values = np.array([0, 1, 1, 0], CODES[name])
    tail = b"N" if kind == "legacy" else b""
    whole = tensor(reference("a", 4, name, tail), shape=(4,), strides=(1,))
    write = archive if kind == "zip" else legacy
    size = {} if kind == "zip" else {"size": values.itemsize}
    content = write(state_dict(w=whole), [("a", values.tobytes())], **size)
    (tmp_path / "w").write_bytes(content)
    np.testing.assert_array_equal(load_state(tmp_path / "w")["w"], values, strict=True)


@PER_TEST_FILE
@given(st.data(), st.sampled_from(FORMATS))
def test_a_view_is_numpy_s_or_refused(tmp_path, data, kind):
    shape = data.draw(st.lists(st.integers(-1, 4), max_size=3))
    strides = data.draw(st.lists(st.integers(-1, 4), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(-1, 7))
    content = state_dict(w=tensor(offset=offset, shape=shape, strides=strides))
    path = tmp_path / "w.pth"
    path.write_bytes(written(kind, content))
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min([offset, *shape, *strides]) < 0 or (0 not in shape and last > 5):
        with pytest.raises(UserError, match=r"view of its storage|beyond its storage"):
            load_state(path)
        return
    places = offset + sum(
        (np.indices(shape)[axis] * step for axis, step in enumerate(strides)), np.zeros(shape, int)
    )
    np.testing.assert_array_equal(load_state(path)["w"], W[np.minimum(places, 5)], strict=True)


TENSORS = {
    "beyond": (tensor(offset=1), "beyond its storage"),
    "negative stride": (tensor(offset=5, strides=(-3, -1)), "not a view of its storage"),
    "negative size": (tensor(shape=(-2, -3)), "not a view of its storage"),
    "huge stride": (tensor(shape=(1, 2), strides=(1 << 62, 1 << 62)), "beyond its storage"),
    "huge unused stride": (tensor(shape=(1, 1), strides=(1 << 62, 1)), "malformed, OverflowError"),
    "wide stride": (tensor(strides=(1 << 64, 1)), "not a view of its storage"),
    "other axes": (tensor(strides=(1,)), "not a view of its storage"),
    "no shape": (tensor(shape=(2, 3)).replace(numbers((2, 3)), b"N"), "not a view"),
    "no storage": (tensor(number(1)), "a tensor of a int"),
    "bomb": (tensor(shape=(1 << 40,), strides=(0,)), "several times the memory"),
    "many axes": (tensor(shape=(1,) * 65, strides=(1,) * 65), "not a view"),
    "missing storage": (tensor(reference("gone")), "malformed|beyond its storage"),
    "another size": (tensor(reference(num=7)), "truncated|a storage of 7 numbers has 24 bytes"),
    "another type": (tensor(reference(kind="Long")), "truncated|a storage of 6 numbers has 24"),
    "negative number": (tensor(reference(num=-6)), "without its type and size"),
    "unknown type": (tensor(reference(kind="ComplexFloat")), "run 'torch.ComplexFloatStorage'"),
    "view of a storage": (tensor(reference(tail=b"(K\x00K\x01t")), "as a view of another"),
    "short reference": (tensor(b"(K\x01tQ"), "referred to by a tuple"),
    "nested key": (tensor(reference().replace(text("0"), NESTED["deep"])), "is a tuple, not text"),
    "nested number": (tensor(reference().replace(number(6), NESTED["wide"])), "its type and size"),
    "parameter of nothing": (b"ctorch._utils\n_rebuild_parameter\n)R", "malformed, TypeError"),
    "load": (b"ctorch\nload\n(" + text("x") + b"tR", "run 'torch.load', which is refused"),
    "storage alone": (reference(), "is a _Storage, not an array"),
    "attributes": (b"}}" + text("__class__") + b"Nsb", "alters a dict"),
    "dtype of a storage": (b"ctorch\nFloatStorage\n)R", "calls a _Dtype"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", TENSORS)
def test_hostile_tensors_are_refused(tmp_path, kind, name):
    value, match = TENSORS[name]
    tracemalloc.start()
    try:
        content = written(kind, state_dict(w=value))
        refused(tmp_path / "bad.pth", content, match)
        assert tracemalloc.get_traced_memory()[1] < 60 * len(content) + 4 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("function", [os.system, pickle.loads, eval, zipfile.ZipFile, open])
def test_no_code_is_run(tmp_path, kind, function):
    trap = tmp_path / "trap"
    inner = pickle.dumps(Call(os.system, f"touch {trap}"), protocol=2)
    call = Call(function, inner if function is pickle.loads else f"touch {trap}")
    for content in (call, {"w": call}, collections.OrderedDict(w=[call])):
        raw = pickle.dumps(content, protocol=2)
        refused(tmp_path / "bad.pth", written(kind, raw), "which is refused")
    # A pickle in the place of numbers is numbers.
    raw = written(kind, state_dict(w=tensor()), (inner + bytes(24))[:24])
    (tmp_path / "w.pth").write_bytes(raw)
    assert load_state(tmp_path / "w.pth")["w"].shape == (2, 3)
    assert not trap.exists()


def test_hostile_files_of_before_1_6(tmp_path):
    plain, storage = state_dict(w=tensor()), ("0", W.tobytes())
    start = legacy(b"", [])[: -len(pickle.dumps([], protocol=2))]
    huge = pickle.dumps(["0"], protocol=2) + struct.pack("<Q", (1 << 64) - 1)
    cases = {
        legacy(plain, [storage, storage]): "has 24 bytes, or others too",
        legacy(plain, [storage, ("1", b"")]): "malformed, KeyError",
        legacy(plain, []): "beyond its storage",
        legacy(plain, [storage], little_endian=False): "another byte order",
        start + plain + huge: "truncated",
        start + plain + b"\x80\x02K\x01.": "malformed, TypeError",
        start + plain + b"\x80\x02]" + NESTED["deep"] + b"a.": "a name is a tuple",
        start + b"\x80\x02K\x01." * 2: "malformed|one int",
        b"".join(pickle.dumps(MAGIC, protocol=2) for _ in range(5)): "malformed, TypeError",
    }
    for content, match in cases.items():
        refused(tmp_path / "bad.pth", content, match)


def patched(raw, at, value):
    """`raw` with `value` at `at` bytes after the start of the directory's last entry."""
    place = raw.rindex(b"PK\1\2") + at
    return raw[:place] + value + raw[place + len(value) :]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives(tmp_path):
    plain, storage = state_dict(w=tensor()), ("0", W.tobytes())
    good = archive(plain, [storage])
    zeros = state_dict(w=tensor(reference(num=25 * MB)))
    deflated = archive(zeros, [("0", bytes(100 * MB))], compression=zipfile.ZIP_DEFLATED)
    assert len(deflated) < MB
    outside = state_dict(w=tensor(reference("../../../../etc/hostname")))
    twice = io.BytesIO(good)
    with zipfile.ZipFile(twice, "a") as file:
        file.writestr("net/data/0", bytes(24))
    two_roots = io.BytesIO(good)
    with zipfile.ZipFile(two_roots, "a") as file:
        file.writestr("../data.pkl", plain)
    crowd = io.BytesIO()
    with zipfile.ZipFile(crowd, "w") as file:
        for index in range(5000):
            file.writestr(f"{index:01000}", b"")
    big_endian = archive(plain, [storage], byteorder="big")
    cases = {
        deflated: "compressed entries",
        archive(plain, [storage], compression=zipfile.ZIP_BZIP2): "compressed entries",
        outside_archive(outside, storage): "malformed, KeyError",
        twice.getvalue(): "has not one FOLDER/data.pkl",
        two_roots.getvalue(): "has not one FOLDER/data.pkl",
        crowd.getvalue(): "too many entries",
        big_endian: "another byte order",
        archive(plain, []): "malformed, KeyError",
        patched(good, 8, b"\1"): "malformed, RuntimeError",  # encrypted
        patched(good, 20, struct.pack("<II", 1 << 31, 1 << 31)): "take more than the file",
        patched(good, 24, struct.pack("<I", 16)): "malformed, BadZipFile|24 bytes|16 bytes",
        patched(good, 16, b"\0\0\0\0"): "malformed, BadZipFile",  # the checksum
        patched(good, 42, b"\xff\xff\xff\x7f"): "malformed",  # where it lies
        patched(good, 46, b"nut"): "malformed",
        good[:4] + bytes(1000): "truncated",
    }
    for content, match in cases.items():
        tracemalloc.start()
        try:
            refused(tmp_path / "bad.pth", content, match)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(content) + 4 * MB, match
        finally:
            tracemalloc.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth"]


def outside_archive(content, storage):
    """An archive with a storage and a file outside of its folder, should somebody extract them."""
    return archive(content, [storage], **{"../../trap": b"x", "/trap": b"x"})


@pytest.mark.parametrize("kind", FORMATS)
def test_truncation_is_refused_wherever_it_falls(tmp_path, kind):
    content = written(kind, state_dict(w=tensor()))
    for length in range(len(content)):
        refused(tmp_path / "cut.pth", content[:length])


@PER_TEST_FILE
@given(st.data(), st.sampled_from(FORMATS))
def test_damaged_files_are_read_or_refused(tmp_path, data, kind):
    """Bytes changed, cut out or doubled at random never raise anything but UserError."""
    content = bytearray(written(kind, state_dict(w=tensor(), b=tensor(shape=(6,), strides=(1,)))))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        end = start + data.draw(st.integers(0, 40))
        kept = bytes(content[start:end])
        change = data.draw(st.sampled_from([kept * 2, b"", None]))
        content[start:end] = data.draw(st.binary(max_size=40)) if change is None else change
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        load_state(path)
    except UserError as error:
        assert len(str(error)) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * MB
    assert [Path(entry).name for entry in tmp_path.iterdir()] == ["w.pth"]
