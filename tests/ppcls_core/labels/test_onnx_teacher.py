"""ONNX classifiers of every layout, type and batch as a teacher; hostile files are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from data_catalog.base.config import UserError
from ppcls_core.inference import onnx_session
from ppcls_core.inference.onnx_session import external_data, open_session
from ppcls_core.labels.config import FLOOR, OnnxConfig, OnnxPreprocess, as_logits
from ppcls_core.labels.teacher import Engine, OnnxTeacher
from tests.support.damage import damaged

CLASSES, SIZE = 5, 16
NINE, FOUR = np.ones((3, 9), np.float32), np.ones((4, 5), np.float32)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, SIZE, SIZE), np.uint8)
WEIGHT = np.random.default_rng(1).normal(0, 1, (3, CLASSES)).astype(np.float32)


@dataclass(frozen=True)
class Net:
    """The mean of each channel, times WEIGHT."""

    dims: tuple[int | str, ...] = ("N", 3, SIZE, SIZE)
    out: tuple[int | str, ...] = ("N", CLASSES)
    kind: int = TensorProto.FLOAT
    nhwc: bool = False
    softmax: bool = False
    outputs: int = 1
    operator: str = "Gemm"
    domain: str = ""
    weight: np.ndarray = field(default_factory=lambda: WEIGHT)

    def proto(self) -> onnx.ModelProto:
        weight = self.weight.astype(helper.tensor_dtype_to_np_dtype(self.kind))
        nodes = [
            *(
                [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])]
                if self.nhwc
                else []
            ),
            helper.make_node(
                "ReduceMean", ["t" if self.nhwc else "x"], ["f"], axes=[2, 3], keepdims=0
            ),
            helper.make_node(self.operator, ["f", "w"], ["g"], domain=self.domain),
            helper.make_node("Softmax" if self.softmax else "Identity", ["g"], ["y"]),
            *([helper.make_node("Identity", ["f"], ["z"])] if self.outputs == 2 else []),
        ]
        x = helper.make_tensor_value_info("x", self.kind, self.dims)
        y = helper.make_tensor_value_info("y", self.kind, self.out)
        z = helper.make_tensor_value_info("z", self.kind, ("N", 3))
        graph = helper.make_graph(
            nodes, "g", [x], [y, z][: self.outputs], [numpy_helper.from_array(weight, "w")]
        )
        domains = {"", self.domain}
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, 17) for d in domains], ir_version=8
        )

    def save(self, folder: Path) -> Path:
        path = folder / "net.onnx"
        path.write_bytes(self.proto().SerializeToString())
        return path


def teacher(path: Path, order: tuple[int, ...] = tuple(range(CLASSES)), **settings) -> OnnxTeacher:
    preprocess = OnnxPreprocess(size=SIZE, mean=MEAN, std=STD)
    config = OnnxConfig(onnx=str(path), preprocess=preprocess, **settings)
    return OnnxTeacher(preprocess=preprocess, config=config, path=path, data=(), order=order)


def want(pixels: np.ndarray = PIXELS, bgr: bool = False) -> np.ndarray:
    means = (pixels / 255).mean((2, 3))
    means = (means - MEAN) / STD
    return (means[:, ::-1] if bgr else means) @ WEIGHT


@pytest.mark.parametrize(
    ("net", "settings", "bound"),
    [
        (Net(), {}, 1e-5),
        (Net(), {"channels": "BGR"}, 1e-5),
        (Net(dims=("N", SIZE, SIZE, 3), nhwc=True), {"layout": "NHWC"}, 1e-5),
        (Net(dims=("N", 3, "H", "W"), out=("N", "C")), {}, 1e-5),
        (Net(dims=(4, 3, SIZE, SIZE), out=(4, CLASSES)), {}, 1e-5),
        (Net(dims=(1, 3, SIZE, SIZE), out=(1, CLASSES)), {}, 1e-5),
        (Net(kind=TensorProto.FLOAT16), {}, 2e-2),
        (Net(kind=TensorProto.DOUBLE), {}, 1e-5),
    ],
    ids=["plain", "BGR", "NHWC", "open sizes", "batches of 4", "one by one", "float16", "float64"],
)
def test_every_layout_type_and_batch(tmp_path, net, settings, bound):
    predict = teacher(net.save(tmp_path), **settings).predictor(Engine())
    for num in (1, 7):
        got = predict(PIXELS[:num])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want(PIXELS[:num], "channels" in settings), atol=bound)


def test_classes_are_put_into_the_order_of_the_data(tmp_path):
    path = Net(softmax=True).save(tmp_path)
    order = (4, 0, 1, 3, 2)
    opened = teacher(path, order, outputs="probabilities")
    got = opened._logits(opened.predictor(Engine())(PIXELS), [("a", Path(), 0)] * len(PIXELS))
    logits = want()[:, order]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(got, np.log(probabilities), atol=1e-4)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net(outputs=2), "has 2 outputs .*expected one"),
        (
            Net(out=("N", 9), weight=NINE),
            r"y is tensor\(float\)\['N', 9\], expected floats \[N, 5\]",
        ),
        (Net(dims=("N", 4, SIZE, SIZE), weight=FOUR), "expected floats NCHW of 3 channels"),
        (Net(dims=("N", SIZE, SIZE, 3), nhwc=True), "expected floats NCHW of 3 channels.*layout"),
        (Net(kind=TensorProto.INT64), "onnxruntime cannot use it"),
        (Net(operator="Mine", domain="evil"), "onnxruntime cannot use it"),
    ],
)
def test_other_inputs_outputs_and_operators_are_refused(tmp_path, net, message):
    with pytest.raises(UserError, match=message):
        teacher(net.save(tmp_path)).predictor(Engine())


def test_what_turns_out_when_it_runs_is_refused(tmp_path):
    predict = teacher(Net().save(tmp_path)).predictor(Engine())
    with pytest.raises(UserError, match=r"takes images of 16 x 16 pixels, got 24.*export it"):
        predict(np.zeros((1, 3, 24, 24), np.uint8))
    model = Net(out=("N", "C")).proto()
    model.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["g", "s"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "s"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    predict = teacher(tmp_path / "net.onnx").predictor(Engine())
    with pytest.raises(UserError, match=r"gives \[1, 35\] for 7 images, expected \[7, 5\]"):
        predict(PIXELS)


@pytest.mark.parametrize(
    ("net", "outputs", "message"),
    [
        (Net(weight=np.full((3, CLASSES), np.nan, np.float32)), "logits", "image b has NaN"),
        (Net(weight=np.full((3, CLASSES), 1e38, np.float32)), "logits", "has NaN or infinity"),
        (Net(softmax=True), "logits", "set `outputs: probabilities`"),
        (Net(), "probabilities", "set `outputs: logits`"),
    ],
)
def test_numbers_that_are_not_what_they_are_called_are_refused(tmp_path, net, outputs, message):
    opened = teacher(net.save(tmp_path), outputs=outputs)
    pixels = np.full_like(PIXELS, 255)
    with pytest.raises(UserError, match=message):
        opened._logits(opened.predictor(Engine())(pixels), [("b", Path(), 0)] * len(pixels))


def test_a_probability_of_zero_becomes_the_floor():
    got = as_logits(np.array([[0.0, 1.0], [0.5, 0.5]], np.float16), "probabilities")
    np.testing.assert_allclose(got, np.log([[FLOOR, 1], [0.5, 0.5]]), atol=1e-6)


def external(folder: Path, location: str, **places: int) -> Path:
    """A model whose weight lies in the file `location`."""
    model = Net().proto()
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": WEIGHT.nbytes, **places}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_tensors_may_lie_in_a_file_of_the_same_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(WEIGHT.tobytes())
    path = external(tmp_path, "data/w.bin")
    assert external_data(path) == (tmp_path / "data" / "w.bin",)
    np.testing.assert_allclose(teacher(path).predictor(Engine())(PIXELS), want(), atol=1e-5)


@pytest.mark.parametrize(
    "place",
    ["/etc/passwd", "../w.bin", "a/../../w.bin", "link", "none", "", ".", "w\0.bin", "w" * 300],
)
def test_no_tensor_is_read_from_anywhere_else(tmp_path, place):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link").symlink_to(tmp_path / "w.bin")
    path = external(folder, place)
    for reader in (external_data, lambda p: open_session(p, 1)):
        with pytest.raises(UserError, match="no file in the folder of the model"):
            reader(path)


def test_a_file_s_name_that_is_no_utf_8_is_taken_as_it_is(tmp_path):
    path = external(tmp_path, "w.bin")
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"w\xffbin"))
    with pytest.raises(UserError, match="no file in the folder of the model"):
        external_data(path)


@pytest.mark.parametrize(
    "places", [{"offset": 8}, {"offset": -8}, {"length": 1 << 62}, {"offset": "x"}]
)
def test_no_tensor_is_read_past_the_end_of_its_file(tmp_path, places):
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(UserError, match="is not within"):
        external_data(external(tmp_path, "w.bin", **places))


def test_tensors_of_subgraphs_are_checked_too(tmp_path):
    inner = helper.make_tensor(
        "i", TensorProto.FLOAT, [1], np.zeros(1, np.float32).tobytes(), raw=True
    )
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="/etc/passwd")
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["o"], value=inner)], "b", [], [out]
    )
    model = Net().proto()
    model.graph.node.append(
        helper.make_node("If", ["c"], ["u"], then_branch=branch, else_branch=branch)
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="tensor 'i' lies in '/etc/passwd'"):
        external_data(tmp_path / "net.onnx")


def test_damaged_files_are_refused_and_never_worse(tmp_path):
    content = Net().save(tmp_path).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "damaged.onnx", 0
    for n in range(60):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 3):
            damaged[at] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged[: rng.integers(1, len(content))] if n % 3 == 0 else damaged)
        try:
            predict = teacher(path).predictor(Engine())
            predict(PIXELS)
        except UserError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100])
def test_what_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.onnx"):
        open_session(tmp_path / "x.onnx", 1)
    with pytest.raises(UserError, match="no such file"):
        open_session(tmp_path, 1)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_session, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxruntime: pip install 'ssld\[onnx\]'"):
        open_session(Net().save(tmp_path), 1)


@settings(max_examples=60, deadline=None)
@given(damaged(Net().proto().SerializeToString()))
def test_any_damage_gives_a_session_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(data)
    try:
        open_session(path, 1)
    except UserError as error:
        assert str(path) in str(error)
