"""The command line `ppcls`, as its users call it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppcls_core.models.weights.files import load_state, save_state

PROJECT = Path(__file__).resolve().parents[2]


def ppcls(*args: object, cwd: object = None) -> subprocess.CompletedProcess[str]:
    """The finished command, run in `cwd`."""
    command = [sys.executable, "-m", "ppcls_core.cli", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=cwd, env=env, check=False
    )


def test_models_are_listed_and_drawn(tmp_path):
    done = ppcls("models", "--where", "top1>85", "--sort", "params", "--plot", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        "Res2Net200_vd_26w_4s_ssld",
        "ResNeXt101_32x48d_wsl",
        "Fix_ResNeXt101_32x48d_wsl",
    ]
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_benchmark_measures_beside_the_published_figures(tmp_path):
    done = ppcls("benchmark", "MobileNetV3_small_x0_35", "--size", 224, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "benchmark.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["mparams"]) == pytest.approx(float(row["published_mparams"]), rel=0.005)
    assert float(row["gflops"]) == pytest.approx(float(row["published_gflops"]), rel=0.03)
    assert float(row["training_engine_ms"]) > 0
    assert float(row["inference_fp32_ms"]) > 0


def test_weights_are_converted(tmp_path):
    save_state(tmp_path / "w.pdparams", {"a.weight": np.arange(3, dtype=np.float32)})
    assert ppcls("convert", tmp_path / "w", tmp_path / "w.safetensors").returncode == 0
    assert list(load_state(tmp_path / "w.safetensors")) == ["a.weight"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("models", "resnet50"), "no model 'resnet50'; did you mean 'ResNet50'"),
        (("models", "--device", "tpu"), "--device: no latencies of 'tpu'"),
        (("models", "--plot", "p.gif"), "expected a name that ends in .png"),
        (("models", "--where", "top1~80"), "expected COLUMN<NUMBER"),
        (("benchmark", "ResNet51"), "unknown model 'ResNet51'; did you mean 'ResNet50'"),
        (("convert", "none", "out.pdparams"), "none: no such file, nor none.pdparams"),
        (("convert", __file__, "out.pdparams"), "not a weights file"),
    ],
)
def test_mistakes_are_told_without_a_traceback(args, message, tmp_path):
    done = ppcls(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
