"""The command line `ppcls`, as its users call it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
import scipy.io
import typer
import yaml

from data_catalog.published import published_weights
from ppcls_core.cli.lazy import lazy_app
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import load_state, save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.terminal import run_app
from tests.support.images import write_jpeg

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def child(*command: object) -> subprocess.CompletedProcess[str]:
    """Python with `command`, finished; for what runs the inference engine."""
    words = [sys.executable, *map(str, command)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, timeout=600, env=env, check=False)


def test_recipes_are_named_and_printed(ppcls, tmp_path):
    names = ppcls("recipe", "--list", "quick_start/*").stdout.split()
    assert len(names) == 6
    assert "quick_start/ResNet50_vd_ssld_random_erasing_finetune" in names
    text = ppcls("recipe", "VGG/VGG11").stdout
    assert yaml.safe_load(text)["ARCHITECTURE"] == {"name": "VGG11"}
    done = ppcls("recipe", "VGG/VGG12")
    assert done.returncode == 2
    assert "did you mean 'VGG/VGG1" in done.stderr


def test_several_settings_may_follow_one_option(ppcls, tmp_path):
    config = ("-c", "ResNet/ResNet50_vd")
    for option in ("-o", "--override", "--set"):
        done = ppcls("train", option, "epochs=0", "print_interval=0", *config, "--dry-run")
        assert done.returncode == 2
        assert "epochs: expected a value" in done.stderr
        assert "print_interval: expected a value" in done.stderr
    done = ppcls("train", *config, "-o", "-1", "topk=0", "--dry-run")
    assert "override '-1': expected the form a.b=value" in done.stderr
    done = ppcls("train", *config, "-o", "epochs=0", "--dry-run", "topk=0")
    assert "got topk=0 and -c ResNet/ResNet50_vd" in done.stderr  # it follows another option


def test_a_data_set_is_made_of_what_lies_in_the_folder(ppcls, tmp_path):
    (tmp_path / "102flowers.tgz").write_bytes(b"<html>")
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": [1, 2, 3]})
    scipy.io.savemat(tmp_path / "setid.mat", {"trnid": [1], "valid": [2], "tstid": [3]})
    done = ppcls("data", "flowers102", tmp_path)
    assert done.returncode == 2
    assert "102flowers.tgz: expected a tar with a folder jpg" in done.stderr


def test_models_are_listed_and_drawn(ppcls, tmp_path):
    done = ppcls("models", "--where", "top1>85", "--sort", "params", "--plot", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        "Res2Net200_vd_26w_4s_ssld",
        "ResNeXt101_32x48d_wsl",
        "Fix_ResNeXt101_32x48d_wsl",
    ]
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_weights_that_are_here_are_not_fetched(ppcls, tmp_path):
    (tmp_path / "AlexNet_pretrained.pdparams").touch()
    done = ppcls("download", "AlexNet", "-p", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/AlexNet_pretrained.pdparams\n")
    lines = ppcls("download", "--list", "-p", tmp_path).stdout.splitlines()
    here = {line.split()[0] for line in lines if line.split()[1] == "here"}
    assert {name for name in here if not published_weights()[name].package} == {"AlexNet"}


@pytest.mark.parametrize("given", ["a.b = 1", "a.b =1", "x=2 a.b = 1"])
def test_a_blank_in_a_setting_is_told(ppcls, given):
    done = ppcls("train", "-c", "x.yaml", "-o", *given.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a.b=value without a blank" in done.stderr


def pressing_ctrl_c() -> None:
    """A command that is interrupted."""
    raise KeyboardInterrupt


def test_ctrl_c_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "stop"])
    app = lazy_app("A program.", {"stop": f"{__name__}:pressing_ctrl_c", "go": "ast:walk"})
    with pytest.raises(SystemExit) as ended:
        run_app(app)
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")


BRIEFLY = """
from functools import partial
from ppcls_core.cli.app import main
from ppcls_core.inference import benchmark
from ppcls_core.runtime.timer import Repeats
benchmark.time_in_turn = partial(benchmark.time_in_turn, repeats=Repeats(1, 1, 0.0))
main()
"""


@pytest.mark.slow
def test_benchmark_measures_beside_the_published_figures(tmp_path):
    done = child("-c", BRIEFLY, "benchmark", "MobileNetV3_small_x0_35", "--size", 224)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "benchmark.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["mparams"]) == pytest.approx(float(row["published_mparams"]), rel=0.005)
    assert float(row["gflops"]) == pytest.approx(float(row["published_gflops"]), rel=0.03)
    assert float(row["training_engine_ms"]) > 0
    for engine in ("plain", "fp32", "int8"):
        assert float(row[f"inference_{engine}_ms"]) > 0
    assert float(row["onnxruntime_ms"]) > 0


@pytest.mark.slow
def test_a_model_is_exported_and_used_in_three_ways(ppcls, tmp_path):
    paddle.seed(0)
    model = build_model("MobileNetV3_small_x0_35", num_classes=3)
    save_state(tmp_path / "w.pdparams", state_of(model))
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    write_jpeg(tmp_path / "good.jpg", 0)
    (tmp_path / "bad.jpg").write_bytes(b"")
    trained = ("MobileNetV3_small_x0_35", "--weights", "w.pdparams", "--classes", "names.txt")
    trained = (*trained, "--size", 64)
    done = ppcls("export", *trained, "--out", "exported")
    assert (done.returncode, done.stderr) == (0, "")
    predict = partial(child, "-m", "ppcls_core.cli.app", "predict", "exported")
    py_infer, infer = partial(ppcls, "py-infer", "exported"), partial(ppcls, "infer", *trained)
    shares = []
    for way in (predict, py_infer, infer):
        done = way("good.jpg", "bad.jpg", "--format", "json")
        assert (done.returncode, done.stderr) == (1, "2 images, 1 predicted, empty 1\n")
        good, bad = map(json.loads, done.stdout.splitlines())
        assert bad["reason"] == "empty"
        assert {guess["name"] for guess in good["predictions"]} == {"one", "two", "three"}
        shares.append({guess["name"]: guess["probability"] for guess in good["predictions"]})
    assert shares[1] == pytest.approx(shares[0], abs=1e-5)
    assert shares[2] == pytest.approx(shares[0], abs=1e-5)
    assert py_infer("good.jpg", "--sheet", "s.png", "--out", "r.csv").returncode == 0
    assert (tmp_path / "s.png").stat().st_size > 5_000
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_prediction_is_timed(ppcls, tmp_path):
    write_jpeg(tmp_path / "good.jpg", 0)
    model = build_model("MobileNetV3_small_x0_35", num_classes=3)
    save_state(tmp_path / "w.pdparams", state_of(model))
    trained = ("MobileNetV3_small_x0_35", "--weights", "w.pdparams", "-o", "num_classes=3")
    assert ppcls("export", *trained, "--size", 64, "--out", "exported").returncode == 0
    words = ("predict", "exported", "good.jpg", "--benchmark")
    done = child("-m", "ppcls_core.cli.app", *words)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [
        "preprocess",
        "run",
        "postprocess",
    ]


def test_weights_are_converted(ppcls, tmp_path):
    save_state(tmp_path / "w.pdparams", {"a.weight": np.arange(3, dtype=np.float32)})
    done = ppcls("convert", tmp_path / "w", tmp_path / "w.safetensors")
    assert done.returncode == 0
    assert "their names are kept and not checked; --model NAME" in done.stdout
    assert list(load_state(tmp_path / "w.safetensors")) == ["a.weight"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("models", "resnet50"), "no model 'resnet50'; did you mean 'ResNet50'"),
        (("models", "--device", "tpu"), "--device: no latencies of 'tpu'"),
        (("models", "--series", "resnet"), "no series 'resnet'; the series are ResNet, Mobile"),
        (("download",), "give the names of the weights, or --list"),
        (("download", "AlexNet", "resnet50"), "no weights are published as 'resnet50'"),
        (("models", "--plot", "p.gif"), "expected a name that ends in .png"),
        (("models", "--where", "top1~80"), "expected COLUMN<NUMBER"),
        (("benchmark", "ResNet51"), "unknown model 'ResNet51'; did you mean 'ResNet50'"),
        (("convert", "none", "out.pdparams"), "none: no such file, nor none.pdparams"),
        (("convert", __file__, "out.pdparams"), "not a weights file"),
        (("export", "ResNet50", "--out", __file__), "is a file; give the name of a folder"),
        (("predict", ".", "x.jpg"), "has no inference.json; expected a folder written by"),
        (("predict", "gone", "x.jpg"), "gone: no such folder or recipe; expected a folder written"),
        (("infer", "ResNet50", "x.jpg", "--out", "."), "is a folder; give the name of a file"),
        (("dedup",), "give POOL, the images to search"),
        (("dedup", "gone"), "gone: no folder, list file or tar there; correct the path"),
        (("dedup", "."), "give one of --against FOLDER and --within"),
        (("dedup", "--review", "."), "holds no finished search; give the --out of a `ppcls dedup`"),
        (("dedup", "x", "--review", "."), "--review DIR is given alone"),
        (("py-infer", ".", "x.jpg", "--sheet", "x.gif"), "ends in .png or .jpg"),
    ],
)
def test_mistakes_are_told_without_a_traceback(ppcls, args, message, tmp_path):
    done = ppcls(*args)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "given", "is_told"), [(9, 3, True), (5, 3, False), (2, 2, False)]
)
def test_more_classes_than_there_are_is_told(
    asked: int, given: int, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from ppcls_core.cli.predict import ResultOptions

    assert ResultOptions(["a.jpg"], top_k=asked).classes_of(given) == given
    told = capsys.readouterr()
    assert ("the model has 3 classes, all are given" in told.out + told.err) == is_told


@pytest.mark.parametrize(("reasons", "is_told"), [({"missing": 2}, True), ({"missing": 1}, False)])
def test_a_list_of_images_elsewhere_is_told(
    reasons: dict[str, int], is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from ppcls_core.cli.predict import report

    with pytest.raises(typer.Exit):
        report(Counter(reasons), "")
    assert ("start from the list's own folder" in capsys.readouterr().err) == is_told
