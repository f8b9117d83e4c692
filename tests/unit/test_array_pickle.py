"""Files of pickled arrays: which are read, and that no file runs code."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.config import UserError
from ppcls_core.models.weight_files import load_state, save_state

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


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("code", [*DTYPES, ">f4", ">i8"])
def test_every_plain_dtype_and_layout_is_read(tmp_path, protocol, code):
    base = np.arange(24).reshape(2, 3, 4).astype(code)
    content = collections.OrderedDict(
        c=base,
        fortran=np.asfortranarray(base),
        part=base[:, ::2],
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
    assert "download or export it again" in str(caught.value)


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
}


def with_trap(value: Any, trap: Path) -> Any:
    """`value` with "{trap}" in a call's texts replaced by the path that running it would make."""
    if isinstance(value, Call):
        function, args = value.call
        return Call(function, *(with_trap(arg, trap) for arg in args))
    if isinstance(value, list):
        return [with_trap(item, trap) for item in value]
    return value.replace("{trap}", str(trap)) if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing(tmp_path, name, nested, protocol):
    trap = tmp_path / "trap"
    value = with_trap(HOSTILE[name], trap)
    content = {"w": weights(), "x": {"deep": [({"w": value},)]} if nested else value}
    refused(tmp_path / "bad.pdparams", pickle.dumps(content, protocol=protocol), "not a weights")
    assert not trap.exists()


def test_hostile_bytes_by_hand(tmp_path):
    system = b"cposix\nsystem\n(S'touch /nowhere'\ntR."
    cases = {
        b"": "EOFError",
        b"\x80\x04": None,
        system: "posix.system, which is refused",
        b"}S'w'\n" + system[:-1] + b"s.": "posix.system, which is refused",
        b"(S'ls'\niposix\nsystem\n.": "posix.system, which is refused",
        b"\x80\x04\x8c\x08builtins\x8c\x0dgetattr.xxxxx\x93.": "refused",
        b"cnumpy\ndtype.type\n.": "refused",
        b"cnumpy\ndtype\n}b.": "alters a function",
        b"cnumpy.core.multiarray\n_reconstruct\n(NK\x01tb.": "alters a function",
        b"ccollections\nOrderedDict\n}S'__init__'\nNsb.": "alters a function",
        b"cnumpy\ndtype\n)\x81.": None,
        b"P1\n.": "persistent",
        b"\x82\x01.": None,
        b"K\x01.": "one int, not named arrays",
        b"}K\x01K\x02s.": "entry 1",
        b"}S'w'\nNs.": "NoneType, not an array",
        b"}S'w'\n]s.": "list, not an array",
        b"}S'UnpackBigParamInfor@@'\nK\x01s.": None,
        b"}S'UnpackBigParamInfor@@'\n}S'w'\n}S'slices'\n](S'z'\nesss.": "KeyError",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.": None,
        b"(" * 100_000: None,
        b"PK\x03\x04 a zip, as other libraries write": None,
        b"<!DOCTYPE html><html>not found</html>": None,
    }
    for content, match in cases.items():
        refused(tmp_path / "bad.pdparams", content, match)


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
        refused(tmp_path / "cut.pdparams", content[:length])


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
