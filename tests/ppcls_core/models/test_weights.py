"""Weights files: what is written, and how it enters a model."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_catalog.base.config import UserError
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.weights.files import find_weights, load_state, save_arrays, save_state
from ppcls_core.models.weights.state import load_weights, state_of

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)
STATES = st.dictionaries(st.text(max_size=8), ARRAYS, max_size=5)
PER_TEST_FILE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Net(Network):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3)
        self.bn = paddle.nn.BatchNorm2D(4)
        self.fc = paddle.nn.Linear(4, num_classes)


def weights(value: float = 0.5) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def test_the_suffix_may_be_left_out(tmp_path):
    save_state(tmp_path / "ResNet50_vd.v2.pdparams", {"w": weights()})
    assert list(load_state(tmp_path / "ResNet50_vd.v2")) == ["w"]
    with pytest.raises(UserError, match=r"other: no such file, nor other\.pdparams"):
        load_state(tmp_path / "other")
    with pytest.raises(UserError, match=r"other\.pdparams: no such file; give"):
        load_state(tmp_path / "other.pdparams")


def test_a_missing_file_s_error_says_where_to_get_it(tmp_path):
    """As PaddleClas's documentation writes the path of weights."""
    path = tmp_path / "pretrained/ResNet50_vd_ssld_v2_pretrained"
    message = f"`ppcls download ResNet50_vd_ssld_v2 -p {path.parent}` puts the published"
    with pytest.raises(UserError, match=re.escape(message)):
        load_state(path)
    with pytest.raises(UserError, match=r"did you mean 'ResNet50_vd"):
        load_state(tmp_path / "Resnet50_vd")


def test_a_name_is_published_weights_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLD_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "weights/ResNet50_vd_ssld_pretrained.pdparams"
    save_state(published, {"w": weights()})
    assert find_weights(Path("ResNet50_vd_ssld")) == published
    assert find_weights(Path("ResNet50_vd_ssld"), tmp_path / "elsewhere") == published
    with pytest.raises(UserError, match="no such file"):
        find_weights(Path("./folder/ResNet50_vd_ssld"))
    save_state(tmp_path / "ResNet50_vd_ssld.pdparams", {"w": weights()})
    assert find_weights(Path("ResNet50_vd_ssld")).read_bytes() == published.read_bytes()
    assert find_weights(Path("ResNet50_vd_ssld")).parent == Path()


def test_unreadable_paths_are_refused(tmp_path):
    with pytest.raises(UserError, match="the folder holds no file"):
        load_state(tmp_path)


def test_unreadable_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path(), Path("..") / tmp_path.name):
        with pytest.raises(UserError, match="the folder holds no file"):
            load_state(path)
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file/below", "fifo", "a\0b", "dangling"):
        with pytest.raises(UserError, match="no such file"):
            load_state(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path / ("w" * 300))


def safetensors(path: Path, name: str, dtype: str, shape: list[int], raw: bytes) -> Path:
    header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw)
    return path


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        *[("BOOL", "?"), ("I8", "i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8")],
        *[("U8", "u1"), ("U16", "<u2"), ("U32", "<u4"), ("U64", "<u8")],
        *[("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8"), ("BF16", "<u2")],
    ],
)
def test_dtypes_of_safetensors(tmp_path, dtype, code):
    want = np.array([[0, 1], [1, 0]], code)
    path = safetensors(tmp_path / "w.safetensors", "w", dtype, [2, 2], want.tobytes())
    np.testing.assert_array_equal(load_state(path)["w"], want, strict=True)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("F8_E4M3", 2), ("F8_E5M2", 2), ("F8_E8M0", 2), ("F4", 1), ("C64", 16), ("X9", 2)],
)
def test_other_dtypes_of_safetensors_are_refused(tmp_path, dtype, size):
    path = safetensors(tmp_path / "w.safetensors", "w", dtype, [2], bytes(size))
    with pytest.raises(UserError, match=f"not a weights file .*{dtype}") as caught:
        load_state(path)
    assert str(path) in str(caught.value)


def test_malformed_safetensors_are_refused(tmp_path):
    path = safetensors(tmp_path / "w.safetensors", "w", "F32", [2], bytes(8))
    whole = path.read_bytes()
    for raw in (b"", whole[:-1], whole[:12], whole + b"x", b"\xff" * 8 + whole, b"PK\3\4" * 9):
        path.write_bytes(raw)
        with pytest.raises(UserError, match="not a weights file"):
            load_state(path)
    with pytest.raises(UserError, match="1,001 characters"):
        load_state(safetensors(path, "w" * 1001, "F32", [2], bytes(8)))


@PER_TEST_FILE
@given(STATES)
def test_what_is_written_is_read(tmp_path, state):
    path = tmp_path / "w.pdparams"
    save_state(path, state)
    got = load_state(path)
    assert list(got) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(got[name], array, strict=True)
    again = tmp_path / "again.pdparams"
    save_state(again, got)
    assert again.read_bytes() == path.read_bytes()


def sources(tmp_path: Path) -> dict[str, np.ndarray]:
    """Equal arrays that came about in different ways."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", base)
    labelled = np.dtype("f4", metadata={"source": "elsewhere"})
    return {
        "numpy": base,
        "paddle": paddle.to_tensor(base).numpy(),
        "np.load": np.load(tmp_path / "a.npy"),
        "memory-mapped": np.load(tmp_path / "a.npy", mmap_mode="r"),
        "slice": np.arange(48, dtype=np.float32).reshape(6, 8)[::2, ::2] * 0 + base,
        "view": np.pad(base, 1)[1:-1, 1:-1],
        "Fortran order": np.asfortranarray(base),
        "big endian": base.astype(">f4"),
        "metadata": base.astype(labelled),
        "read-only": np.frombuffer(base.tobytes(), np.float32).reshape(3, 4),
    }


def test_equal_states_give_equal_bytes_wherever_they_came_from(tmp_path):
    contents = set()
    for array in sources(tmp_path).values():
        path = tmp_path / "w.pdparams"
        save_state(path, {"x": array, "y": array[0], "epoch": 1, "name": "x"})
        contents.add(path.read_bytes())
        text = "".join(["x"])  # an equal string that is another object
        save_state(path, {"x": array.copy(), "y": array[0].copy(), "epoch": 1, "name": text})
        contents.add(path.read_bytes())
    assert len(contents) == 1
    save_state(path, {"x": array + 1, "y": array[0], "epoch": 1, "name": "x"})
    assert path.read_bytes() not in contents


def test_a_saved_and_read_state_is_saved_as_the_same_bytes(tmp_path):
    first, second = tmp_path / "1.pdparams", tmp_path / "2.pdparams"
    save_state(first, state_of(Net()))
    save_state(second, load_state(first))
    assert first.read_bytes() == second.read_bytes()


def test_paddle_reads_what_is_written(tmp_path):
    model = Net()
    path = tmp_path / "net.pdparams"
    save_state(path, {**state_of(model), "epoch": 3, "note": "x"})
    loaded = paddle.load(str(path))
    assert (loaded.pop("epoch"), loaded.pop("note")) == (3, "x")
    assert list(loaded) == list(model.state_dict())
    other = Net()
    missing, unexpected = other.set_state_dict(loaded)
    assert (missing, unexpected) == ([], [])
    np.testing.assert_array_equal(other.fc.weight.numpy(), model.fc.weight.numpy())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.pdparams"
    save_state(path, {"w": weights(1)})
    with pytest.raises(TypeError):
        save_state(path, {"w": weights(2), "bad": (i for i in range(3))})  # type: ignore[dict-item]
    assert load_state(path)["w"][0, 0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.pdparams"]


@PER_TEST_FILE
@given(STATES)
def test_safetensors_are_read_as_written(tmp_path, state):
    save_arrays(tmp_path / "w.safetensors", state)
    got = load_state(tmp_path / "w.safetensors")
    assert got.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(got[name], array, strict=True)


def test_any_memory_layout_is_written_as_safetensors(tmp_path):
    for name, array in sources(tmp_path).items():
        save_arrays(tmp_path / "w.safetensors", {"w": array})
        got = load_state(tmp_path / "w.safetensors")["w"]
        np.testing.assert_array_equal(got, np.arange(12, dtype=np.float32).reshape(3, 4), name)


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors", ""])
@pytest.mark.parametrize("name", ["\ud800", "w" * 1001])
def test_names_that_no_file_can_hold(tmp_path, suffix, name):
    with pytest.raises(UserError, match=f"target{suffix}: .*such weights cannot be written"):
        save_arrays(tmp_path / f"target{suffix}", {"a": weights(), name: weights()})
    with pytest.raises(UserError, match="such weights cannot be written"):
        save_state(tmp_path / "target", {name: weights()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"__metadata__": weights()}, "the name '__metadata__'"),
        ({"w": weights().astype("c8")}, "w: arrays of dtype complex64 are not written"),
        ({"w": np.array([{}])}, "w: arrays of dtype object are not written"),
    ],
)
def test_what_safetensors_cannot_hold(tmp_path, arrays, reason):
    with pytest.raises(UserError, match=rf"w\.safetensors: {reason}.*; write a \.pdparams"):
        save_arrays(tmp_path / "w.safetensors", arrays)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors", ""])
def test_targets_that_cannot_be_written(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"folder{suffix}/kept").write_bytes(b"kept")
    (tmp_path / "file").write_bytes(b"kept")
    os.mkfifo(tmp_path / f"fifo{suffix}")
    for name in ("folder", "fifo", "file/below", "w" * 300, "a\0b"):
        path = tmp_path / f"{name}{suffix}"
        with pytest.raises(UserError) as caught:
            save_arrays(path, {"w": weights()})
        assert str(path) in str(caught.value) or repr(str(path)) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["file", f"fifo{suffix}", f"folder{suffix}"]
    )
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert [path.name for path in (tmp_path / f"folder{suffix}").iterdir()] == ["kept"]


@pytest.mark.parametrize("name", [".", "", "..", ".pdparams", ".safetensors", "w.onnx"])
def test_targets_without_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"expected NAME\.pdparams, NAME\.safetensors, or the name"):
        save_arrays(Path(name), {"w": weights()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["w.pdparams", "w.safetensors", "w"])
def test_a_full_disk_is_told(tmp_path, monkeypatch, name):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"{name}: cannot be written \(No space left on device\)"):
        save_arrays(tmp_path / name, {"w": weights()})
    assert not list(tmp_path.iterdir())


# Models


def test_state_of_is_a_copy():
    model = Net()
    state = state_of(model)
    model.fc.weight.set_value(np.zeros((4, 3), np.float32))
    assert state["fc.weight"].any()
    assert list(state) == list(model.state_dict())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_load_weights_fills_every_entry(tmp_path, dtype):
    source, model = Net(), Net()
    source.bn._mean.set_value(np.full(4, 0.25, np.float32))
    state = {name: array.astype(dtype) for name, array in state_of(source).items()}
    save_state(tmp_path / "w.pdparams", state)
    load_weights(model, tmp_path / "w")
    for name, array in state_of(model).items():
        np.testing.assert_array_equal(array, state[name].astype(np.float32), strict=True)


def bfloat16(value: np.ndarray) -> np.ndarray:
    """As Paddle rounds, in the form in which weights files have it."""
    return paddle.to_tensor(value).astype("bfloat16").numpy()


def as_float(model: Net) -> dict[str, np.ndarray]:
    return {n: t.astype("float64").numpy() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_bfloat16_weights_fill_a_model_of_any_precision(tmp_path, dtype, suffix):
    source, model = Net(), Net()
    source.bn._mean.set_value(np.array([0.1, -300.5, 3e-5, np.inf], np.float32))
    state = {name: bfloat16(array) for name, array in state_of(source).items()}
    assert {array.dtype for array in state.values()} == {np.dtype(np.uint16)}
    save_arrays(tmp_path / f"w{suffix}", state)
    source.to(dtype="bfloat16")
    model.to(dtype=dtype)
    load_weights(model, tmp_path / f"w{suffix}")
    want, rounded = as_float(source), "float16" if dtype == "float16" else "float64"
    for name, array in as_float(model).items():
        np.testing.assert_array_equal(array, want[name].astype(rounded))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["f2", "f4", "f8"])
def test_models_of_half_precision_are_filled_and_come_back(tmp_path, dtype, stored):
    source, model = Net(), Net()
    state = {name: array.astype(stored) for name, array in state_of(source).items()}
    save_state(tmp_path / "w.pdparams", state)
    model.to(dtype=dtype)
    load_weights(model, tmp_path / "w")
    for name, tensor in model.state_dict().items():
        assert str(tensor.dtype) == f"paddle.{dtype}"
        np.testing.assert_array_equal(
            tensor.astype("float32").numpy(),
            paddle.to_tensor(state[name]).astype(dtype).astype("float32").numpy(),
        )
    save_state(tmp_path / "half.pdparams", state_of(model))
    again = Net()
    again.to(dtype=dtype)
    load_weights(again, tmp_path / "half")
    for name, array in state_of(model).items():
        np.testing.assert_array_equal(state_of(again)[name], array, strict=True)


def test_another_number_of_classes(tmp_path):
    source, model = Net(5), Net(3)
    save_state(tmp_path / "w.pdparams", state_of(source))
    before = state_of(model)
    with pytest.raises(UserError, match=r"weights are for 5 classes, the model has 3: .*classes=5"):
        load_weights(model, tmp_path / "w")
    np.testing.assert_array_equal(model.conv.weight.numpy(), before["conv.weight"])
    told: list[str] = []
    load_weights(model, tmp_path / "w", told.append)
    assert told == [
        f"{tmp_path / 'w'}: the classifier is new: the weights are for 5 classes, the model has 3; "
        "fc.weight and fc.bias start as initialised"
    ]
    after = state_of(model)
    np.testing.assert_array_equal(after["conv.weight"], state_of(source)["conv.weight"])
    np.testing.assert_array_equal(after["fc.weight"], before["fc.weight"])


def test_equal_classes_are_loaded_even_where_others_are_allowed(tmp_path):
    source, model = Net(), Net()
    save_state(tmp_path / "w.pdparams", state_of(source))
    load_weights(model, tmp_path / "w", pytest.fail)
    np.testing.assert_array_equal(model.fc.weight.numpy(), source.fc.weight.numpy())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"fc.weight": np.zeros((5, 3), np.float32)},
            "fc.weight: got shape [5, 3], expected [4, 3]",
        ),
        ({"bn._mean": np.zeros((4, 1), np.float32)}, "bn._mean: got shape [4, 1], expected [4]"),
        ({"bn._mean": np.zeros(4, np.int64)}, "bn._mean: got int64, expected float32"),
        ({"bn._mean": np.zeros(4, np.uint8)}, "bn._mean: got uint8, expected float32"),
        ({"bn._mean": 1.0}, "bn._mean: got shape [], expected [4]"),
        ({"bn._mean": np.array([0, np.nan, 0, 0], np.float32)}, "bn._mean: holds NaN"),
        ({"extra": np.zeros(4, np.float32)}, "extra: unexpected"),
        ({"fc.bias": None}, "fc.bias: missing"),
    ],
)
@pytest.mark.parametrize("on_new", [None, print])
def test_misfits_are_listed_and_change_nothing(tmp_path, change, line, on_new):
    model = Net()
    before = state_of(model)
    state = {name: array + 1 for name, array in before.items()} | change
    state = {name: value for name, value in state.items() if value is not None}
    save_state(tmp_path / "w.pdparams", state)
    with pytest.raises(UserError, match="1 entry does not fit the model: check that") as caught:
        load_weights(model, tmp_path / "w.pdparams", on_new)
    assert line in str(caught.value)
    for name, array in state_of(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_long_lists_of_misfits_are_cut(tmp_path):
    save_state(tmp_path / "w.pdparams", {f"layer{i}": weights() for i in range(20)})
    with pytest.raises(UserError, match="28 entries do not fit") as caught:
        load_weights(Net(), tmp_path / "w")
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[1] == "  conv.weight: missing"
    assert lines[-1] == "  and 18 more"
