"""The teacher on the inference engine answers as the network does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.labels.teacher import (
    Agreement,
    MeanTeacher,
    NetworkTeacher,
    agreement,
    fastest_precision,
)
from ppcls_core.models.registry import ModelConfig
from ppcls_core.runtime.processes import ChildDied
from tests.conftest import PROJECT

ON_THE_ENGINE = """
import numpy as np, paddle
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.labels.teacher import agreement, fastest_precision, on_engine
from ppcls_core.models.registry import build_model
paddle.seed(0)
model = build_model("ResNet18_vd", num_classes=7, spec={"depths": [1, 1, 1, 1], "width": 8})
model.eval()
pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 48, 48), np.uint8)
want = predict_logits(model, pixels)
fp32 = on_engine(model, 48, "fp32", 1)
assert np.abs(fp32(pixels) - want).max() < 1e-4 * np.abs(want).max()
assert np.array_equal(fp32(pixels[:3]), fp32(pixels[:3]))
precision, found = fastest_precision(lambda dtype: on_engine(model, 48, dtype, 1)(pixels))
assert (precision == "bf16") == (found is not None and found.is_close), (precision, found)
print("same")
"""


def test_the_engine_gives_the_networks_logits():
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_ENGINE], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("same"), done.stderr


def test_agreement_of_equal_logits_whatever_their_offset():
    logits = np.random.default_rng(0).normal(0, 4, (50, 9))
    assert agreement(logits, logits + 3).top1 == 1
    assert agreement(logits, logits + 3).kl == pytest.approx(0, abs=1e-12)


def test_agreement_is_the_mean_divergence():
    first, second = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    found = agreement(first, second)
    assert found.kl == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3)))
    assert found.top1 == 0.5


@pytest.mark.parametrize(
    ("noise", "precision"),
    [(0.0, "bf16"), (0.01, "bf16"), (0.1, "fp32"), (0.5, "fp32"), (np.nan, "fp32")],
)
def test_bf16_is_taken_when_it_agrees(monkeypatch, noise, precision):
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("bf16",))
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (64, 10)).astype(np.float32)

    def logits_in(dtype):
        return logits + (noise * rng.normal(0, 1, logits.shape) if dtype == "bf16" else 0)

    got, found = fastest_precision(logits_in)
    assert got == precision
    assert isinstance(found, Agreement)


@pytest.mark.parametrize(
    ("overflows", "chosen"), [((), "fp16"), (("fp16",), "bf16"), (("fp16", "bf16"), "fp32")]
)
def test_on_a_gpu_fp16_is_tried_before_bf16(monkeypatch, overflows, chosen):
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("fp16", "bf16"))
    logits = np.random.default_rng(0).normal(0, 1, (64, 10)).astype(np.float32)
    found = fastest_precision(lambda dtype: logits * (np.nan if dtype in overflows else 1))
    assert found[0] == chosen


def test_fp32_is_taken_when_the_engine_refuses_bf16(monkeypatch):
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("bf16",))
    refused = UserError("Paddle cannot run it in bf16")

    def logits_in(dtype):
        if dtype == "bf16":
            raise refused
        return np.zeros((4, 3), np.float32)

    assert fastest_precision(logits_in) == ("fp32", refused)


@pytest.mark.parametrize(
    ("fails", "error"), [("fp32", UserError("no such file")), ("bf16", ChildDied("SIGKILL"))]
)
def test_what_is_no_refusal_is_not_taken_for_one(monkeypatch, fails, error):
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("bf16",))

    def logits_in(dtype):
        if dtype == fails:
            raise error
        return np.zeros((4, 3), np.float32)

    with pytest.raises(type(error), match=str(error)):
        fastest_precision(logits_in)


def test_without_bf16_there_is_nothing_to_compare(monkeypatch):
    monkeypatch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ())
    assert fastest_precision(lambda dtype: pytest.fail("opened")) == ("fp32", None)


def test_a_mean_is_another_where_a_teacher_sees_images_otherwise():
    def identity(size: int, share: float, content: str) -> object:
        model, preprocess = ModelConfig(name="ResNet18_vd"), Preprocess(size=size)
        one = NetworkTeacher(model=model, num_classes=2, weights=Path("w"), preprocess=preprocess)
        mean = MeanTeacher(teachers=(one, one), weights=(share, 1 - share))
        return mean.identity(lambda path: content)

    same = identity(32, 0.5, "a")
    assert same == identity(32, 0.5, "a")
    assert same not in (identity(48, 0.5, "a"), identity(32, 0.4, "a"), identity(32, 0.5, "b"))
