"""What the inference engine is asked for, and what it refuses."""

import re
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError, parse
from ppcls_core.inference import predictor as engine
from ppcls_core.inference.predictor import NORMALIZING, EngineOptions, open_predictor
from ppcls_core.inference.sidecar import PROGRAM, WEIGHTS
from ppcls_core.labels.teacher import on_engine
from ppcls_core.models.registry import build_model


@pytest.fixture
def machine(monkeypatch):
    """A machine that has, or lacks, a GPU and bfloat16."""

    def become(gpu, bf16):
        monkeypatch.setattr(engine, "has_gpu", lambda: gpu)
        monkeypatch.setattr(engine, "has_fast_bf16", lambda on_gpu=None: bf16)

    return become


@pytest.mark.parametrize(
    ("has", "asked", "message"),
    [
        ((False, True), {"device": "gpu"}, "device gpu: Paddle sees no GPU here"),
        ((False, True), {"precision": "fp16"}, "precision fp16: for GPUs alone"),
        ((False, False), {"precision": "bf16"}, "precision bf16: this device does not compute"),
        ((True, False), {"precision": "bf16"}, "precision bf16: this device does not compute"),
        ((True, True), {"precision": "int8"}, "precision int8: computed on the CPU alone"),
        ((False, True), {"precision": "bf16", "onednn": False}, "on a CPU it is oneDNN's"),
        ((False, True), {"precision": "int8", "onednn": False}, "on a CPU it is oneDNN's"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(machine, has, asked, message):
    machine(*has)
    with pytest.raises(UserError, match=message):
        EngineOptions(**asked).check()


@pytest.mark.parametrize(
    ("has", "asked"),
    [
        ((False, False), {}),
        ((True, False), {"device": "cpu"}),
        ((True, True), {"precision": "fp16"}),
        ((False, True), {"precision": "bf16"}),
        ((True, True), {"precision": "int8", "device": "cpu"}),
    ],
)
def test_what_it_can_do_is_not(machine, has, asked):
    machine(*has)
    EngineOptions(**asked).check()


def test_an_unknown_precision_is_told_with_those_there_are():
    with pytest.raises(UserError, match="precision: expected 'fp32', 'bf16', 'fp16' or 'int8'"):
        parse(EngineOptions, {"precision": "int4"}, "ppcls predict")


@pytest.mark.parametrize(
    ("gpu", "bf16", "precisions"),
    [
        (True, True, ("fp16", "bf16")),
        (True, False, ("fp16",)),  # V100, T4
        (False, True, ("bf16",)),
        (False, False, ()),
    ],
)
def test_what_is_faster_than_fp32(machine, gpu, bf16, precisions):
    machine(gpu, bf16)
    assert engine.fast_precisions() == precisions


class Recorder:
    """An `inference.Config` that keeps what it is asked for."""

    def __init__(self, *files: str) -> None:
        self.asked: dict[str, list[tuple[object, ...]]] = {}

    def __getattr__(self, name: str):
        return lambda *values: self.asked.setdefault(name, []).append(values)


@pytest.fixture
def opened(machine, monkeypatch, tmp_path):
    """Opens a predictor that a fake engine runs: (the recorder, the predictor)."""

    def open_with(precision: str, error: Exception | None = None, where: str = "run"):
        machine(True, True)
        for name in (PROGRAM, WEIGHTS):
            (tmp_path / name).touch()
        configs: list[Recorder] = []

        def failing(*_: object):
            if error:
                raise error

        handle = SimpleNamespace(
            copy_from_cpu=failing if where == "copy_from_cpu" else lambda images: None,
            copy_to_cpu=failing if where == "copy_to_cpu" else lambda: np.zeros(1),
        )
        predictor = SimpleNamespace(
            get_input_names=lambda: ["x"],
            get_output_names=lambda: ["y"],
            get_input_handle=lambda name: handle,
            get_output_handle=lambda name: handle,
            run=failing if where == "run" else lambda: None,
        )

        def create(config: Recorder):
            configs.append(config)
            if where == "create":
                failing()
            return predictor

        monkeypatch.setattr(engine.inference, "Config", Recorder)
        monkeypatch.setattr(engine.inference, "create_predictor", create)
        return open_predictor(tmp_path, EngineOptions.model_construct(precision=precision)), configs

    return open_with


@pytest.mark.parametrize(
    ("precision", "deleted"),
    [("fp32", []), ("fp16", []), ("bf16", ["conv2d_add_act_fuse_pass", "conv2d_add_fuse_pass"])],
)
def test_on_a_gpu_16_bits_spare_the_pixels_and_reach_the_convolutions(opened, precision, deleted):
    _, (config,) = opened(precision)
    assert config.asked["enable_use_gpu"][0][1] == 0  # the only one that a child sees
    assert config.asked["exp_disable_mixed_precision_ops"] == [(NORMALIZING,)]
    assert [name for (name,) in config.asked.get("delete_pass", [])] == deleted
    assert not any("tensorrt" in name for name in config.asked)


@pytest.mark.parametrize("where", ["create", "copy_from_cpu", "run", "copy_to_cpu"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("(External) CUDNN error(9), CUDNN_STATUS_NOT_SUPPORTED.\n  [Hint: ...]"), "CUDNN"),
        (MemoryError("(ResourceExhausted) \n\nOut of memory error on GPU 0. Cannot"), "Out of mem"),
        (RuntimeError("(Unavailable) no kernel"), "no kernel"),
    ],
)
def test_an_error_of_the_card_reaches_the_user(opened, where, error, words):
    with pytest.raises(UserError, match=words):
        opened("fp16", error, where)[0](np.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50_vd", "MobileNetV3_large_x1_0", "EfficientNetB0"])
def test_what_spares_the_pixels_is_what_normalizing_adds(monkeypatch, name):
    """And no network has it, so that nothing else stays in 32 bits."""
    programs: list[str] = []

    def keep(folder: Path, options: object) -> None:
        programs.append((folder / PROGRAM).read_text())

    monkeypatch.setattr("ppcls_core.labels.teacher.open_predictor", keep)
    model = build_model(name, num_classes=2)
    on_engine(model, 64, "fp32", 1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = paddle.static.InputSpec([None, 3, 64, 64], "float32")
        paddle.jit.save(model, f"{folder}/inference", input_spec=[spec])
        programs.append((Path(folder) / PROGRAM).read_text())
    seen, alone = (set(re.findall(r'"#":"1\.(\w+)"', program)) for program in programs)
    assert seen >= NORMALIZING
    assert not NORMALIZING & alone
