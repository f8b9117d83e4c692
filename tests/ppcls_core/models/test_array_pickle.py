"""Files of pickled arrays: which are read, and that no file runs code."""

from __future__ import annotations

import collections
import itertools
import os
import pickle
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from ppcls_core.models.weights.files import load_state, save_state

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
PER_TEST_FILE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Net(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3)
        self.bn = paddle.nn.BatchNorm2D(4)
        self.fc = paddle.nn.Linear(4, 3)


def weights(value: float = 0.5) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_s_own_files_are_read(tmp_path, protocol):
    model = Net()
    path = tmp_path / "net.pdparams"
    paddle.save(model.state_dict(), str(path), protocol=protocol)
    state = load_state(path)
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_among_scalars_are_read(tmp_path, protocol):
    path = tmp_path / "mixed.pdparams"
    entries = {"w": paddle.ones([2]), "epoch": 3, "lr": 0.1, "name": "x", "np": np.float64(2.5)}
    paddle.save(entries, str(path), protocol=protocol)
    state = load_state(path)
    np.testing.assert_array_equal(state.pop("w"), np.ones(2, np.float32), strict=True)
    assert state == {"epoch": 3, "lr": 0.1, "name": "x", "np": 2.5}


@pytest.mark.parametrize("protocol", [2, 3])
def test_arrays_that_paddle_split_are_joined(tmp_path, protocol):
    """Paddle splits beyond 2**30 - 1 bytes, too many to write here: such a file, made small."""
    whole = np.arange(60, dtype=np.float32).reshape(3, 20)
    parts = {f"w@@.{i}": whole.reshape(-1)[i * 25 : (i + 1) * 25] for i in range(3)}
    layout = {"w": {"OriginShape": (3, 20), "slices": list(parts)}}
    content = {"b": weights(), **parts, "UnpackBigParamInfor@@": layout}
    path = tmp_path / "big.pdparams"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    state = load_state(path)
    assert sorted(state) == ["b", "w"]
    np.testing.assert_array_equal(state["w"], whole, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("code", [*DTYPES, ">f4", ">i8"])
def test_every_plain_dtype_and_layout_is_read(tmp_path, protocol, code):
    base = np.arange(24).reshape(2, 3, 4).astype(code)
    content = collections.OrderedDict(
        c=base,
        fortran=np.asfortranarray(base),
        part=base[:, ::2],
        turned=base.transpose(1, 0, 2),
        empty=base[:0],
        one=base[0, 0, 1],
    )
    content["zero_dim"] = np.array(base[1, 1, 1])
    path = tmp_path / "a"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    state = load_state(path)
    assert list(state) == list(content)
    for name, array in content.items():
        np.testing.assert_array_equal(state[name], array)
        if name != "one":  # a NumPy scalar becomes Python's
            assert state[name].dtype == array.dtype.newbyteorder("=")
            assert state[name].shape == array.shape


def test_numpy_1_s_names_are_read(tmp_path):
    for protocol in (2, 3, 5):
        raw = pickle.dumps({"w": weights(), "n": np.float32(2)}, protocol=protocol)
        if protocol == 5:
            raw = raw[:2] + raw[11:]  # without the frame, whose size the renaming changes
            raw = raw.replace(b"\x8c\x13numpy._core", b"\x8c\x12numpy.core")
            raw = raw.replace(b"\x8c\x16numpy._core", b"\x8c\x15numpy.core")
        raw = raw.replace(b"numpy._core", b"numpy.core")
        (tmp_path / "w").write_bytes(raw)
        state = load_state(tmp_path / "w")
        np.testing.assert_array_equal(state["w"], weights(), strict=True)
        assert state["n"] == 2


def test_honest_files_keep_within_the_budget(tmp_path):
    """What takes most memory by its size: zeros, one byte in protocol 2, swapped, split."""
    zeros = np.zeros(1 << 20, ">f4")
    layout = {"w": {"OriginShape": (1 << 20,), "slices": ["w@@.0"]}}
    content = {"tied": zeros, "too": zeros, "w@@.0": zeros.copy(), "UnpackBigParamInfor@@": layout}
    (tmp_path / "w").write_bytes(pickle.dumps(content, protocol=2))
    assert {name: array.shape for name, array in load_state(tmp_path / "w").items()} == {
        name: zeros.shape for name in ("tied", "too", "w")
    }


def test_python_2_s_ordered_dict_and_integers_are_read(tmp_path):
    """As Python 2.7.18 wrote OrderedDict([("a", 2**40)]): pairs as lists, the integer as text."""
    path = tmp_path / "old.pdparams"
    path.write_bytes(
        b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02]q\x03(U\x01aI1099511627776\nea\x85Rq\x04."
    )
    assert load_state(path) == {"a": 1 << 40}


def test_python_2_s_pickles_are_read(tmp_path):
    """Protocol 2 of Python 2 wrote an array's bytes as a string, here typed out by hand."""
    text = np.array([1.5, -2.0], np.float32).tobytes()
    raw = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + text + b"tbs."
    )
    path = tmp_path / "old.pdparams"
    path.write_bytes(raw)
    np.testing.assert_array_equal(load_state(path)["w"], np.array([1.5, -2.0], np.float32))


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def refused(path: Path, content: bytes, match: str | None = None) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=match) as caught:
        load_state(path)
    assert str(path) in str(caught.value)
    assert "or export it again" in str(caught.value)


HOSTILE = {
    "system": Call(os.system, "touch {trap}"),
    "popen": Call(subprocess.Popen, ["touch", "{trap}"]),
    "eval": Call(eval, "open('{trap}', 'w')"),
    "exec": Call(exec, "open('{trap}', 'w')"),
    "open": Call(open, "{trap}", "w"),
    "getattr": Call(getattr, "x", "format"),
    "import": Call(__import__, "os"),
    "partial": Call(__import__("functools").partial, os.system, "touch {trap}"),
    "numpy save": Call(np.save, "{trap}", 1),
    "numpy load": Call(np.load, "{trap}", None, True),
    "numpy fromfile": Call(np.fromfile, "/etc/hostname", "u1"),
    "numpy memmap": Call(np.memmap, "{trap}", "u1", "w+", 0, 8),
    "numpy vectorize": Call(np.vectorize, "f"),
    "paddle": Call(paddle.to_tensor, 1.0),
    "codec": Call(__import__("_codecs").encode, "abc", "rot13"),
    "object array": np.array([{}], dtype=object),
    "string array": np.array(["a"]),
    "structured array": np.zeros(2, [("a", "i4")]),
    "date array": np.zeros(2, "M8[s]"),
    "complex array": np.zeros(2, "c8"),
    "set": {1},
    "frozenset": frozenset([1]),
    "complex": 1j,
    "range": range(3),
}


def with_trap(value: Any, trap: Path) -> Any:
    """`value` with "{trap}" in a call's texts replaced by the path that running it would make."""
    if isinstance(value, Call):
        function, args = value.call
        return Call(function, *(with_trap(arg, trap) for arg in args))
    if isinstance(value, list):
        return [with_trap(item, trap) for item in value]
    return value.replace("{trap}", str(trap)) if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path, name, nested, protocol):
    trap = tmp_path / "trap"
    value = with_trap(HOSTILE[name], trap)
    content = {"w": weights(), "x": {"deep": [({"w": value},)]} if nested else value}
    refused(tmp_path / "bad.pdparams", pickle.dumps(content, protocol=protocol), "not a weights")
    assert not trap.exists()


def test_hostile_bytes_by_hand(tmp_path):
    two, four = b"\x80\x02", b"\x80\x04"
    system = b"cposix\nsystem\n(U\x10touch /nowhere\n\ntR."
    cases = {
        b"": "does not start as a pickle",
        four: "truncated",
        system: "does not start as a pickle",
        two + system: "posix.system', which is refused",
        two + b"}U\x01w" + system[:-1] + b"s.": "posix.system', which is refused",
        two + b"(S'ls'\niposix\nsystem\n.": "opcode 0x53",
        two + b"(iposix\nsystem\n.": "opcode 0x69",
        two + b"(cposix\nsystem\no.": "posix.system', which is refused",
        four + b"\x8c\x08builtins\x8c\x0dgetattr.xxxxx\x93.": "refused",
        four + b"K\x01K\x01\x93.": "malformed, UnpicklingError",
        two + b"cnumpy\ndtype.type\n.": "refused",
        two + b"c\x1b[31m" + b"x" * 1000 + b"\ny\n.": r"run '\\x1b\[31mx{50,60}', which",
        two + b"cnumpy\ndtype\n}b.": "alters a method",
        two + b"cnumpy.core.multiarray\n_reconstruct\n(NK\x01tb.": "alters a method",
        two + b"ccollections\nOrderedDict\n}U\x08__init__Nsb.": "alters a method",
        two + b"}}U\x08__init__Nsb.": "alters a dict",
        two + b"cnumpy\nndarray\n)R.": "calls a type",
        two + b"K\x01)R.": "calls a int",
        two + b"ccollections\nOrderedDict\n]R.": "calls a method",
        two + b"ccollections\nOrderedDict\nK\x01\x85R.": "OrderedDict made of a int",
        two + b"ccollections\nOrderedDict\n]K\x01a\x85R.": "OrderedDict made of a list",
        two + b"cbuiltins\ntuple\nX\x02\0\0\0ab\x85R.": "tuple made of a str",
        two + b"cnumpy\ndtype\n)\x81.": "opcode 0x81",
        two + b"P1\n.": "opcode 0x50",
        two + b"K\x01Q.": "referred to by a int",
        two + b"\x82\x01.": "opcode 0x82",
        four + b"\x8f.": "opcode 0x8f",
        two + b"I" + b"9" * 5000 + b"\n.": "more than 64 bits",
        two + b"Ix\n.": "malformed",
        two + b"K\x01.": "one int, not named arrays",
        two
        + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "truncated",  # as PyTorch before 1.6, and no more
        two + b"}K\x01K\x02s.": "a name is a int",
        two + b"]U\x01wK\x02s.": "items of a list",
        two + b"}(U\x01wu.": "malformed",
        four + b"}\x8c\x03\xed\xa0\x80K\x01s.": "cannot be encoded in UTF-8",
        two + b"}X\xe9\x03\0\0" + b"w" * 1001 + b"K\x01s.": "1,001 characters",
        two + b"}U\x01wNs.": "NoneType, not an array",
        two + b"}U\x01w]s.": "list, not an array",
        two + b"}U\x01wcnumpy\nndarray\ns.": "type, not an array",
        two + b"}U\x01wcnumpy.core.multiarray\n_reconstruct\nNNN\x87Rs.": "without values",
        two + b"}U\x15UnpackBigParamInfor@@K\x01s.": "a int, not a dict",
        four + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.": "BINBYTES8|truncated",
        two + b"(" * 100_000: "truncated",
        b"PK\x03\x04 a zip, as other libraries write": "zip archive that is truncated",
        b"<!DOCTYPE html><html>not found</html>": "does not start as a pickle",
    }
    for content, match in cases.items():
        refused(tmp_path / "bad.pdparams", content, match)


@pytest.mark.parametrize(
    "layout",
    [
        1,
        {},
        {"slices": "w", "OriginShape": (3,)},
        {"slices": ["w"], "OriginShape": 3},
        {"slices": ["w"], "OriginShape": (-1,)},
        {"slices": [], "OriginShape": (0,)},
        {"slices": [("w",)], "OriginShape": (3,)},
        {"slices": ["z"], "OriginShape": (3,)},
        {"slices": ["w", "w"], "OriginShape": (6,)},
        {"slices": ["n"], "OriginShape": (1,)},
        {"slices": ["matrix"], "OriginShape": (6,)},
        {"slices": ["w", "other"], "OriginShape": (6,)},
        {"slices": ["w"], "OriginShape": (4,)},
    ],
)
def test_malformed_splits_are_refused(tmp_path, layout):
    arrays = {"w": np.zeros(3, "f4"), "matrix": weights(), "n": 1, "other": np.zeros(3, "i8")}
    content = {**arrays, "UnpackBigParamInfor@@": {"joined": layout}}
    refused(tmp_path / "bad.pdparams", pickle.dumps(content, protocol=2))


# A tuple in a tuple in a tuple, and one whose every level holds the one below twice.
NESTED = {"deep": b")" + b"\x85" * 200_000, "wide": b")" + b"q\x00h\x00\x86" * 60}
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nNNN\x87R"
F4 = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"}", b"K\x01s."),
        (b"}(", b"K\x01u."),
        (b"}U\x01w", b"s."),
        (b"}U\x01wU\x01n", b"\x86s."),
        (b"cnumpy\ndtype\n", b"K\x00K\x01\x87R."),
        (F4 + b"K\x03", b"\x86b."),
        (ARRAY + b"(K\x01", F4 + b"\x89U\x00tb."),
        (ARRAY + b"(K\x01K\x00\x85", b"\x89U\x00tb."),
        (ARRAY + b"(K\x01K\x00\x85" + F4 + b"\x89", b"tb."),
        (b"cnumpy.core.numeric\n_frombuffer\n(C\x00" + F4 + b")", b"tR."),
        (b"cnumpy.core.multiarray\nscalar\n", F4 + b"\x86R."),
        (b"c_codecs\nencode\nU\x00", b"\x86R."),
        (b"ccollections\nOrderedDict\n]](", b"K\x01ea\x85R."),
        (b"K\x01", b"R."),
        (b"K\x01", b"b."),
        (b"", b"U\x01a\x93."),
        (b"}U\x15UnpackBigParamInfor@@", b"s."),
        (b"}U\x15UnpackBigParamInfor@@}U\x01w}U\x06slices](", b"esU\x0bOriginShape)sss."),
        (b"", b"."),
    ],
    ids=itertools.count(),
)
def test_nested_tuples_are_refused_where_they_do_not_belong(tmp_path, kind, before, after):
    """Hashing, comparing or printing them crashes the interpreter or does not end."""
    reasons = "tuple|byte order|other codec|is refused|requires str"
    refused(tmp_path / "bad.pdparams", b"\x80\x04" + before + NESTED[kind] + after, reasons)


def long_text(size: int) -> bytes:
    """A text of `size` zeros, memoised as 0."""
    return b"X" + size.to_bytes(4, "little") + bytes(size) + b"q\x00"


MB = 1 << 20
SHAPE = b"J" + MB.to_bytes(4, "little") + b"\x85"
BOMBS = {
    "bytes": long_text(MB) + b"](" + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 50 + b"e.",
    "arrays": long_text(4 * MB)
    + F4
    + b"(K\x03U\x01>tbq\x01]("
    # Each array with its byte order to be swapped.
    + (ARRAY + b"(K\x01" + SHAPE + b"h\x01\x89h\x00tb") * 50
    + b"e.",
    "scalars": long_text(8 * MB)
    + F4
    + b"q\x01]("
    + b"cnumpy.core.multiarray\nscalar\nh\x01h\x00\x86R" * 50
    + b"e.",
    "dicts": b"]("
    + b"]U\x01aaK\x01a" * 20_000
    + b"eq\x00]("
    + b"ccollections\nOrderedDict\nh\x00\x85R" * 5000
    + b"e.",
    "tuples": long_text(MB) + b"](" + b"cbuiltins\ntuple\nh\x00\x85R" * 50 + b"e.",
    "spread": long_text(MB) + b"](" + b"cnumpy\ndtype\nh\x00R" * 50 + b"e.",
    "bytearray": b"\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "text": b"\x8d" + (1 << 40).to_bytes(8, "little") + b".",
    "frame": b"\x95" + (1 << 40).to_bytes(8, "little") + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_few_bytes_do_not_take_much_memory(tmp_path, name):
    content = b"\x80\x02" + BOMBS[name]
    reasons = "several times the memory|truncated|shape and dtype|made of a str|is refused"
    tracemalloc.start()
    try:
        refused(tmp_path / "bad.pdparams", content, reasons)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(content) + 4 * MB
    finally:
        tracemalloc.stop()


def test_high_memo_indices_do_not_take_memory(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\x80\x04}r\0\0\0\x10r\xff\xff\xff\x7f.")
    tracemalloc.start()
    try:
        assert load_state(path) == {}
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()


def test_steps_are_limited(tmp_path):
    refused(tmp_path / "bad.pdparams", b"\x80\x04" + b"N" * 2_000_001 + b".", "2,000,000 steps")


@pytest.mark.parametrize("shape", [(3,), (1 << 62, 4), (2, -5), "ab", None])
def test_shapes_that_the_bytes_do_not_fill_are_refused(tmp_path, shape):
    function, args, state = weights().__reduce__()
    forged = (state[0], shape, *state[2:])

    class Forged:
        def __reduce__(self):
            return function, args, forged

    refused(tmp_path / "bad.pdparams", pickle.dumps({"w": Forged()}))


def test_truncation_is_refused_wherever_it_falls(tmp_path):
    path = tmp_path / "w.pdparams"
    save_state(path, {"a": weights(), "b": np.arange(5), "epoch": 3})
    content = path.read_bytes()
    for length in range(len(content)):
        refused(tmp_path / "cut.pdparams", content[:length], "truncated|does not start")


@PER_TEST_FILE
@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path, data):
    """Bytes changed at random never raise anything but UserError."""
    path = tmp_path / "w.pdparams"
    save_state(path, {"a": weights(), "b": np.arange(5), "epoch": 3})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert isinstance(load_state(path), dict)
    except UserError as error:
        assert str(path) in str(error)
