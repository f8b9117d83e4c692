"""Services end within bounds whatever they do, and an environment that cannot work is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import httpx
import pytest

from data_catalog.base.config import UserError
from data_catalog.base.files import write_json
from flows import services
from tests.conftest import PROJECT
from tests.support.processes import (
    is_running,
    kill_with_environment,
    wait_until,
    with_environment,
)

# A service outlives, by its nature, the object that started it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

# A service whose process starts another in a session of its own; both do as they are told.
STUB = """
import signal, subprocess, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "parent":
    command = [sys.executable, "-m", "stub", sys.argv[1], "child"]
    subprocess.Popen(command, start_new_session=True)
open(sys.argv[2] + ".ready", "w").close()  # what it does upon SIGTERM is set
if sys.argv[1] == "leaves" and sys.argv[2] == "parent":
    sys.exit()
time.sleep(1000)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Home of services that can be started as `stub`; nothing of them is left afterwards."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setenv("SSLD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{PROJECT}")
    try:
        yield services.home()
    finally:
        kill_with_environment(f"@{tmp_path / 'home'}")


def stub(kind: str, name: str = "worker") -> services.Service:
    """A started service with two processes, or with what its process has left."""
    service = services.Service(name, ("stub", kind, "parent"))
    service.start()
    ready = [services.home() / f"{who}.ready" for who in ("parent", "child")]
    assert wait_until(lambda: all(path.exists() for path in ready), 60)
    if kind == "leaves":
        assert wait_until(lambda: service.pid() is None, 60)
    assert len(service.members()) == (1 if kind == "leaves" else 2)
    return service


@pytest.mark.parametrize(("kind", "killed"), [("meek", 0), ("deaf", 2), ("leaves", 0)])
def test_a_service_and_all_it_started_end(home: Path, kind: str, killed: int) -> None:
    service = stub(kind)
    pids = service.members()
    begun = time.monotonic()
    assert service.stop(1.0 if killed else 30.0) == killed
    assert time.monotonic() - begun < 25  # and not the 30 that it would be waited for
    assert not any(map(is_running, pids))
    assert service.members() == []
    assert not service.record.exists()


def _has_stopped(stat: Path) -> bool:
    return ") T " in stat.read_text()


def test_a_stopped_service_is_killed(home: Path) -> None:
    service = stub("meek")
    for pid in service.members():
        os.kill(pid, signal.SIGSTOP)
        stat = Path(f"/proc/{pid}/stat")  # a SIGTERM that comes before it has stopped would end it
        assert wait_until(partial(_has_stopped, stat), 60)
    assert service.stop(0.5) == 2
    assert service.members() == []


def test_another_process_is_not_taken_for_a_service(home: Path) -> None:
    service = services.Service("worker", ("stub", "meek", "parent"))
    write_json(service.record, {"pid": os.getpid(), "command": service.command})
    assert service.pid() is None
    assert service.stop(0.1) == 0


FROZEN = """
import socket, sys, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[-1])))
time.sleep(1000)  # connections are made, and never answered
"""


@pytest.mark.slow
def test_down_ends_though_the_server_does_not_answer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frozen" / "prefect").mkdir(parents=True)
    (tmp_path / "frozen" / "prefect" / "__main__.py").write_text(FROZEN)
    with monkeypatch.context() as context:
        context.setenv("PYTHONPATH", str(tmp_path / "frozen"))
        port = free_port()
        services.server(port).start()
    stub("deaf", "worker-gpu")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DOWN], capture_output=True, text=True, timeout=600, check=False
    )
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 500
    assert "cannot cancel runs (no answer)" in said[0]
    assert "worker-gpu: 2 of its processes did not end by themselves; killed" in said
    assert "server: stopped" in said
    assert with_environment(f"@{services.home()}") == []


DOWN = """
from flows import services
services.STOP_SECONDS = 2
services.down(print)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_run_that_is_stopped_for_a_minute_is_not_taken_for_crashed() -> None:
    missed = resolve_name("flows.prefect_state:MISSED_HEARTBEAT").total_seconds()
    assert missed >= 60 + 2 * int(services.SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_stands_between_servers_of_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "example.org, .internal")
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    services.prepare()
    for variable in ("NO_PROXY", "no_proxy"):
        assert os.environ[variable] == "example.org,.internal,localhost,127.0.0.1,::1"
    mounts = httpx.Client()._mounts
    assert {p.pattern for p, t in mounts.items() if t is None} >= {"all://127.0.0.1", "all://[::1]"}


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ALL_PROXY", "nonsense://127.0.0.1:9", "a proxy .* cannot be used .*ALL_PROXY"),
        ("PREFECT_HOME", "/proc/none", "cannot be written .*; set PREFECT_HOME to a folder"),
        ("SSLD_HOME", "/proc/none", "cannot be written .*; set SSLD_HOME to a folder"),
        ("HOME", "/proc/none", "cannot be written .*; set PREFECT_HOME to a folder"),
    ],
)
def test_an_environment_that_cannot_work_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    if variable == "HOME":
        monkeypatch.delenv("PREFECT_HOME")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=told):
        services.prepare()


def test_without_a_temporary_folder_its_variable_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(services, "gettempdir", none)
    with pytest.raises(UserError, match="set TMPDIR to a folder"):
        services.prepare()
