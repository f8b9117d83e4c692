"""What the inference engine is asked for, and what it refuses."""

from __future__ import annotations

import pytest

from data_catalog.base.config import UserError, parse
from ppcls_core.inference import predictor as engine
from ppcls_core.inference.predictor import EngineOptions


@pytest.fixture
def machine(monkeypatch):
    """A machine that has, or lacks, a GPU and bfloat16."""

    def become(gpu, bf16):
        monkeypatch.setattr(engine, "has_gpu", lambda: gpu)
        monkeypatch.setattr(engine, "has_fast_bf16", lambda on_gpu=None: bf16)
        monkeypatch.setattr(engine.inference, "get_trt_compile_version", lambda: (0, 0, 0))

    return become


@pytest.mark.parametrize(
    ("has", "asked", "message"),
    [
        ((False, True), {"device": "gpu"}, "device gpu: Paddle sees no GPU here"),
        ((False, True), {"tensorrt": True}, "tensorrt: runs on NVIDIA's GPUs alone"),
        ((True, True), {"tensorrt": True}, "tensorrt: this build of Paddle has none"),
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
