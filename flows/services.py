"""Prefect's server, worker and deployments as one thing that is up or down.

Order matters: server, work pool, deployments, automation, worker; stopping goes the other way,
after the running flows have been cancelled and have saved their work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_json
from tasks.recipe import PROJECT
from tasks.run.store import Store

POOL, PROFILE = "ssld", "ssld"
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 s may be too short
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "10",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  ssld      %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": (
        "%(asctime)s  %(task_run_name)-8s  %(message)s"
    ),
}


@dataclass(frozen=True)
class Service:
    """A background process of ours: its pid is believed only while its command line fits."""

    name: str
    command: tuple[str, ...]

    @property
    def record(self) -> Path:
        return home() / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return home() / f"{self.name}.log"

    def pid(self) -> int | None:
        """Its process, or None when it does not run."""
        pid = (read_json(self.record) or {}).get("pid")
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            return None
        return pid if list(self.command) == line[-len(self.command) - 1 : -1] else None

    def start(self) -> None:
        """Start it in a session of its own, so that closing the terminal does not end it."""
        home().mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=home(),
            )
        write_json(self.record, {"pid": process.pid, "command": self.command})

    def stop(self, seconds: float) -> None:
        """Ask it to stop, and kill it after `seconds`."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            if not wait_until(lambda: self.pid() is None, seconds):
                os.kill(pid, signal.SIGKILL)
        self.record.unlink(missing_ok=True)


def home() -> Path:
    """Where logs and process records lie: beside the store."""
    return Store.default().root.parent / "services"


def server(port: int) -> Service:
    """Prefect's server with its dashboard, on loopback."""
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    return Service("server", command)


def worker() -> Service:
    """The process worker that runs deployments of the pool, one at a time."""
    return Service("worker", ("prefect", "worker", "start", "--pool", POOL, "--type", "process"))


def apply_settings() -> None:
    """Put our Prefect settings into the environment, where a user's own come first.

    Prefect reads its settings at import: call this before.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["SSLD_PROJECT"] = str(PROJECT)


def api_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def is_healthy(api: str) -> bool:
    """Whether a Prefect server answers at `api`."""
    try:
        with urlopen(f"{api}/health", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return condition()


def up(port: int, say: Callable[[str], None]) -> str:
    """Start what does not run yet; the dashboard's address.

    Raises:
        UserError: the port is taken by something else, or a service does not start.
    """
    apply_settings()
    api = api_of(port)
    running, other = server(port), _current_port()
    if other is not None and other != port and server(other).pid() is not None:
        raise UserError(f"services are up already, on port {other}; `ssld down` first")
    if running.pid() is None:
        if is_healthy(api):
            raise UserError(
                f"port {port} has a Prefect server that `ssld up` did not start; stop it or give "
                "another --port"
            )
        say("server: starts")
        os.environ["PREFECT_SERVER_UI_API_URL"] = api  # else the dashboard asks the default port
        running.start()
    if not wait_until(lambda: is_healthy(api) or running.pid() is None, 180) or not is_healthy(api):
        running.record.unlink(missing_ok=True)
        raise UserError(f"the server did not start; see {running.log} (is port {port} taken?)")
    os.environ["PREFECT_API_URL"] = api
    from flows import prefect_state

    prefect_state.use_profile(PROFILE, api)
    prefect_state.ensure_pool(POOL)
    if worker().pid() is None:
        for name in prefect_state.crash_orphans(POOL):
            say(f"run {name}: its process is gone, marked Crashed")
    _deploy(say)
    prefect_state.ensure_automation()
    if worker().pid() is None:
        say("worker: starts")
        worker().start()
    return f"http://127.0.0.1:{port}"


def _deploy(say: Callable[[str], None]) -> None:
    command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"the deployments could not be made:\n{done.stdout}{done.stderr}")
    say("deployments: ready")


def down(say: Callable[[str], None]) -> None:
    """Cancel running flows, wait until they have saved their work, stop worker and server."""
    port = _current_port()
    if port is None or server(port).pid() is None:
        worker().stop(30)
        say("server: not running")
        return
    apply_settings()
    os.environ["PREFECT_API_URL"] = api_of(port)
    from flows import prefect_state

    if worker().pid() is not None:
        for name in prefect_state.cancel_running(POOL):
            say(f"run {name}: cancelled")
    worker().stop(60)
    say("worker: stopped")
    prefect_state.leave_profile(PROFILE)
    server(port).stop(30)
    say("server: stopped")


def _current_port() -> int | None:
    """Port of the server that `up` started last."""
    command = (read_json(home() / "server.json") or {}).get("command")
    return int(command[-1]) if command else None
