"""`ppcls serve` and `ppcls client` as processes, with a tiny model on the inference engine."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import paddle
import pytest

from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import export
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.registry import build_model
from ppcls_core.serving.engine import engine
from ppcls_core.serving.server import listen
from tests.conftest import PROJECT
from tests.support.images import write_jpeg

ENV = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
PPCLS = [sys.executable, "-m", "ppcls_core.cli.app"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network, and a photograph of noise beside it."""
    folder = tmp_path_factory.mktemp("exported")
    paddle.seed(0)
    spec = {"depths": [1, 1, 1, 1], "width": 4}
    network = build_model("ResNet18_vd", num_classes=3, spec=spec)
    sidecar = Sidecar(architecture="tiny", classes=("a", "b", "c"), preprocess=Preprocess(size=48))
    export(network, sidecar, folder)
    write_jpeg(folder / "photo.jpg", 0)
    return folder


def child(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*PPCLS, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=ENV, check=False
    )


@contextmanager
def serve(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """URL and process, once it listens; killed at the end if it still runs."""
    command = [*PPCLS, "serve", *map(str, arguments), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENV) as process:
        try:
            assert process.stdout
            found = re.match(r"listening, model loading: (\S+)$", process.stdout.readline())
            assert found
            yield found[1], process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline().startswith("ready after ")


def test_a_server_answers_as_predict_does_and_ends_on_a_signal(model, tmp_path):
    with serve(model) as (url, process):
        ready(process)
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200
        asked = child("client", url, model / "photo.jpg", "--format", "json")
        assert asked.returncode == 0, asked.stderr
        written = child("client", url, model / "photo.jpg", "--out", tmp_path / "rows.csv")
        process.terminate()
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out == "stopped\n"
    assert written.stderr == f"1 image, 1 predicted; written: {tmp_path}/rows.csv\n"
    assert "Traceback" not in errors
    told = child("predict", model, model / "photo.jpg", "--format", "json")
    want, got = (json.loads(done.stdout)["predictions"] for done in (told, asked))
    assert [guess["name"] for guess in got] == [guess["name"] for guess in want]
    for one, other in zip(got, want, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_loads_ends_it_too(model, number):
    with serve(model) as (_, process):
        process.send_signal(number)
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out == "stopped\n"  # and not yet ready
    assert "Traceback" not in errors


def test_mistakes_are_told_without_a_traceback(ppcls, model, tmp_path):
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        for arguments, message in (
            ((model, "--port", port), f"cannot listen on 127.0.0.1 port {port}"),
            ((model, "--host", "0.0.0.0"), "no token is given"),
            ((model, "-o", "max_bach=3"), "did you mean 'max_batch'"),
            ((tmp_path,), "expected a folder written by `ppcls export`"),
        ):
            done = ppcls("serve", *arguments)
            assert done.returncode == 2
            assert message in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_model_that_does_not_load_ends_the_server(model, tmp_path):
    for name in ("inference.json", "inference.pdiparams", "sidecar.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    sidecar = Sidecar.model_validate_json((tmp_path / "sidecar.json").read_bytes())
    sidecar.model_copy(update={"classes": ("one",)}).write(tmp_path)
    with serve(tmp_path) as (_, process):
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "names 1 class, but the model has 3" in " ".join(errors.split())
    assert "Traceback" not in errors


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def seconds_of(pid: int) -> float:
    """Of computing."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_the_inference_process_takes_no_time_to_end(model):
    # Of the processor, which does not depend on what else runs here.
    others, before = children(os.getpid()), resource.getrusage(resource.RUSAGE_CHILDREN)
    with engine(model, {"precision": "fp32", "threads": 1, "device": "cpu"}) as predict:
        predict(np.zeros((1, 3, 48, 48), np.uint8))
        (child,) = children(os.getpid()) - others
        running = seconds_of(child)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert whole - running < 0.2


@pytest.mark.slow
def test_a_server_whose_inference_process_dies_ends(model):
    with serve(model) as (url, process):
        ready(process)
        (child,) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        with (model / "photo.jpg").open("rb") as photo:
            response = httpx.post(f"{url}/predict", files={"image": photo}, trust_env=False)
        assert response.status_code == 503
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "the inference process has ended with -9" in " ".join(errors.split())


@pytest.mark.slow
def test_malformed_requests_are_refused_and_leave_nothing_behind():
    script = PROJECT / "benchmarks" / "serving_fuzz.py"
    command = [sys.executable, str(script), "--num", "300"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=ENV, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
