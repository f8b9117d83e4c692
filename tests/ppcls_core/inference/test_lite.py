"""Paddle-Lite: what its optimiser is asked for, and the benchmark's form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import export
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.jobs import lite
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of

PROJECT = Path(__file__).resolve().parents[3]
STAND_IN = f"""#!{sys.executable}
import sys
from pathlib import Path
asked = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
program, weights = Path(asked.pop("model_file")), Path(asked.pop("param_file"))
assert program.suffix == ".pdmodel" and program.stat().st_size > 1000
assert weights.suffix == ".pdiparams" and weights.stat().st_size > 1000
out = asked.pop("optimize_out")
assert asked == {{"optimize_out_type": "naive_buffer", "valid_targets": "arm"}}, asked
Path(out + ".nb").write_bytes(b"nb " + weights.read_bytes())
"""
FAILING = f"#!{sys.executable}\nraise SystemExit('unknown operator: warp')\n"
CRASHING = f"#!{sys.executable}\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
SPEC = "{depths: [1, 1, 1, 1], width: 4}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: weights of a small network for 3 classes, and bin/, which is on PATH."""
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    paddle.seed(0)
    model = build_model("ResNet18_vd", num_classes=3, spec={"depths": [1, 1, 1, 1], "width": 4})
    save_state(Path("weights.pdparams"), state_of(model))
    text = f"model: {{name: ResNet18_vd, spec: {SPEC}}}\nnum_classes: 3\npreprocess: {{size: 32}}\n"
    Path("job.yaml").write_text(text)
    return model


def install(text: str) -> None:
    path = Path("bin", lite.OPTIMIZERS[0])
    path.write_text(text)
    path.chmod(0o755)


def child(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`ppcls ARGUMENTS...` in a process of its own, for what runs the inference engine."""
    command = [sys.executable, "-m", "ppcls_core.cli.app", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=env, check=False
    )


def test_a_model_goes_through_the_optimiser(ppcls, folder):
    install(STAND_IN)
    done = ppcls("export-lite", "job.yaml", "--weights", "weights.pdparams", "--out", "m.nb")
    assert done.returncode == 0, done.stderr
    assert Path("m.nb").read_bytes().startswith(b"nb ")
    assert done.stdout.startswith("written: m.nb (0.")
    assert sorted(path.name for path in Path().iterdir()) == [
        "bin",
        "job.yaml",
        "m.nb",
        "weights.pdparams",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [(FAILING, "unknown operator: warp"), (CRASHING, "it was ended by SIGSEGV")],
)
def test_an_optimiser_that_fails_is_told(folder, text, said):
    install(text)
    files = Path("job.yaml"), Path("weights.pdparams")
    with pytest.raises(UserError, match=f"does not convert this model .{said}"):
        lite._optimize(lite.find_optimizer(), files, Path("m.nb"), "arm")
    assert not Path("m.nb").exists()


def test_mistakes_are_told_before_anything_is_done(folder, monkeypatch):
    with pytest.raises(UserError, match=r"expected the name of a file that ends in \.nb"):
        lite.check_out(Path("model"))
    monkeypatch.setenv("PATH", "bin")
    with pytest.raises(UserError, match=r"optimiser \(paddle_lite_opt, .*\) is not on PATH"):
        lite.find_optimizer()
    with pytest.raises(UserError, match=r"has no int8\.json"):
        lite.convert_int8("opt", Path(), Path("m.nb"), "arm")


@pytest.mark.parametrize("text", ["0", "1,,2", "two", "-1", "257", ""])
def test_numbers_of_threads_are_checked(text):
    with pytest.raises(UserError, match="expected numbers from 1 to 256"):
        lite.threads_of(text)
    assert lite.threads_of("1,2,4") == [1, 2, 4]


@pytest.mark.slow
def test_the_benchmark_has_the_manuals_form(folder):
    sidecar = Sidecar(
        architecture="ResNet18_vd", classes=("a", "b", "c"), preprocess=Preprocess(size=32)
    )
    export(folder, sidecar, Path("exported"))
    done = child("lite-benchmark", "exported", "--threads", "1,2", "--warmup", 1, "--repeats", 3)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert "not Paddle-Lite" in first
    assert lines[0] == "Threads=1 Warmup=1 Repeats=3"
    assert lines[3] == "Threads=2 Warmup=1 Repeats=3"
    for line in (lines[1], lines[4]):
        row = re.fullmatch(r"ResNet18_vd +min = (\S+) +max = (\S+) +average = (\S+)", line)
        assert row, line
        low, high, mean = map(float, row.groups())
        assert 0 < low <= mean <= high
