"""Prefect's server, worker and deployments as one thing that is up or down.

Order matters: server, work pools, deployments, automation, workers; stopping goes the other way,
after the running flows have been cancelled and have saved their work.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryFile, gettempdir
from urllib.error import URLError
from urllib.request import urlopen

import httpx

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json, write_json
from data_catalog.recipes import PROJECT
from ppcls_core.runtime.cluster import PORT, make_certificate
from tasks.run.store import Store

DEPLOYMENTS = "configs/prefect.yaml"
_STATE = "flows.prefect_state"  # imports Prefect, which reads the environment
_CHECK_DATABASE = "flows.database:check_database"  # imports asyncpg
POOLS = {"cpu": 2, "gpu": 1}  # work pools, and how many runs each has at once
PROFILE, PREVIOUS = "ssld", "previous_profile"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"  # variable of the server
MARK = "SSLD_SERVICE"  # variable of a service's processes: its name and the folder of its record
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Bounds of `ssld up` and `ssld down`, in seconds.
DEPLOY_SECONDS, CANCEL_SECONDS, STOP_SECONDS, KILL_SECONDS = 300, 60, 30, 10
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 s may be too short
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "10",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  ssld      %(message)s",
    # The stage's name is part of the message (flows.dashboard): Prefect's API knows it by its id.
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
}


@dataclass(frozen=True)
class Service:
    """A background process of ours, with all that it starts: they have MARK in the environment."""

    name: str
    command: tuple[str, ...]  # arguments of `python -m`

    @property
    def record(self) -> Path:
        """File of its process id and command."""
        return home() / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File of its output."""
        return home() / f"{self.name}.log"

    @property
    def _mark(self) -> bytes:
        return f"{MARK}={self.name}@{home()}".encode()

    def pid(self) -> int | None:
        """Its process, or None when it does not run."""
        pid = (read_json(self.record) or {}).get("pid")
        return pid if pid in self.members() else None

    def members(self) -> list[int]:
        """Its process and those that came of it, whatever their session."""
        return [pid for pid, variables in _environments() if self._mark in variables]

    def has_variable(self, name: str, value: str) -> bool:
        """Whether its process has this variable in its environment."""
        own = self.pid()
        return any(
            f"{name}={value}".encode() in found for pid, found in _environments() if pid == own
        )

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
                env={**os.environ, MARK: f"{self.name}@{home()}"},
            )
        write_json(self.record, {"pid": process.pid, "command": self.command})

    def stop(self, seconds: float) -> int:
        """End it and all that came of it; how many processes had to be killed.

        Its process is asked first, then what that leaves behind; after `seconds` in all they are
        killed. The end comes within KILL_SECONDS more.
        """
        end = time.monotonic() + seconds
        if (pid := self.pid()) is not None:
            _signal([pid], signal.SIGTERM)
            wait_until(lambda: self.pid() is None, seconds)
        if left := self.members():
            _signal(left, signal.SIGTERM)
            wait_until(lambda: not self.members(), end - time.monotonic())
        killed: set[int] = set()

        def is_killed() -> bool:
            left = self.members()
            killed.update(left)
            _signal(left, signal.SIGKILL)
            return not left

        wait_until(is_killed, KILL_SECONDS)
        self.record.unlink(missing_ok=True)
        return len(killed)


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    """(process, its variables) of each process of this user; none of those that have ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def home() -> Path:
    """Where logs and process records lie: beside the store."""
    return Store.default().root.parent / "services"


def server(port: int, host: str = "127.0.0.1") -> Service:
    """Prefect's server with its dashboard, on the address `host`."""
    command = ("prefect", "server", "start", "--host", host, "--port", str(port))
    return Service("server", command)


def workers() -> dict[str, Service]:
    """By work pool the process worker that runs its deployments."""
    command = ("prefect", "worker", "start", "--type", "process", "--pool")
    return {pool: Service(f"worker-{pool}", (*command, pool)) for pool in POOLS}


def scheduler(host: str = "") -> Service:
    """The scheduler of a cluster's workers, on the address `host`."""
    return Service("scheduler", ("tasks.run.hosts", host))


def prepare() -> None:
    """Make the environment such that Prefect works in it; a user's own settings come first.

    Prefect reads the environment at import: call this before. Raises UserError: a folder that
    cannot be written, or a proxy that cannot be used.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["SSLD_PROJECT"] = str(PROJECT)
    _exempt_loopback()
    prefect_home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser
    _check_writable("PREFECT_HOME", prefect_home)
    _check_writable("SSLD_HOME", lambda: Store.default().root.parent)
    _check_writable("TMPDIR", lambda: Path(gettempdir()))
    try:
        httpx.Client().close()  # as Prefect's client, it takes the proxies of the environment
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise UserError(
            f"a proxy of the environment cannot be used ({error}); correct or unset HTTP_PROXY, "
            "HTTPS_PROXY and ALL_PROXY"
        ) from error


def _exempt_loopback() -> None:
    """Let no proxy come between this process, what it starts, and servers on this machine."""
    both = ",".join(os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy"))
    given = filter(None, map(str.strip, both.split(",")))
    hosts = dict.fromkeys([*given, *LOOPBACK, _current_host()])
    for name in ("NO_PROXY", "no_proxy"):  # some programs read one, some the other
        os.environ[name] = ",".join(hosts)


def _check_writable(variable: str, folder: Callable[[], Path]) -> None:
    try:
        path = folder()
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: a `~` of nobody
        where = f"{name}: " if (name := getattr(error, "filename", None)) else ""
        raise UserError(
            f"{where}cannot be written ({error}); set {variable} to a folder that can"
        ) from error


def _api_of(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}/api"


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


@dataclass(frozen=True)
class Share:
    """Other hosts may use the services, which listen on `host` and ask for the password."""

    host: str
    password: str

    def prepare(self) -> None:
        """Set the environment such that Prefect asks for the password, and knows it; make the
        certificate of the cluster. Raises UserError: no address of this machine, no password."""
        if not self.password:
            raise UserError("got an empty password, expected one: whoever has it may run code here")
        try:
            with socket.socket() as one:
                one.bind((self.host, 0))
        except OSError as error:
            raise UserError(f"{self.host}: no address of this machine ({error})") from None
        if self.host == "0.0.0.0":
            raise UserError("0.0.0.0: give the address by which other hosts reach this machine")
        both = f"ssld:{self.password}"
        os.environ |= {"PREFECT_SERVER_API_AUTH_STRING": both, "PREFECT_API_AUTH_STRING": both}
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] += f",{self.host}"
        make_certificate()


def up(
    port: int,
    say: Callable[[str], None],
    database: str | None = None,
    share: Share | None = None,
) -> str:
    """Start what does not run yet; the dashboard's address. The server keeps its records in
    `database`, by default in a file of SQLite. Raises UserError: a start fails, or the server that
    runs has another database.
    """
    prepare()
    if share:
        share.prepare()
    host = share.host if share else "127.0.0.1"
    api = _api_of(port, host)
    start_server(port, host, database, say)
    os.environ["PREFECT_API_URL"] = api
    prefect_state = resolve_name(_STATE)
    prefect_state.check_password()  # before a wrong one is kept
    prefect_state.use_profile(PROFILE, api, home() / PREVIOUS)
    for pool, worker in workers().items():
        prefect_state.ensure_pool(pool, POOLS[pool])
        if worker.pid() is None:
            for name in prefect_state.crash_orphans(pool):
                say(f"run {name}: its process is gone, marked Crashed")
    _deploy(say)
    prefect_state.ensure_automation()
    for worker in workers().values():
        if worker.pid() is None:
            say(f"{worker.name}: starts")
            worker.start()
    if share and scheduler().pid() is None:
        say("scheduler: starts")
        _start_scheduler(share.host)
    return api.removesuffix("/api")


def start_server(port: int, host: str, database: str | None, say: Callable[[str], None]) -> None:
    """Start the server on the address `host` unless it runs, and wait until it answers."""
    api, running, other = _api_of(port, host), server(port, host), _current_port()
    is_other = other is not None and (other, _current_host()) != (port, host)
    if is_other and running.pid() is not None:
        raise UserError(
            f"services are up already, on port {other} of {_current_host()}; `ssld down` first"
        )
    if running.pid() is None:
        if is_healthy(api):
            raise UserError(
                f"port {port} has a Prefect server that `ssld up` did not start; stop it or give "
                "another --port"
            )
        if database:
            resolve_name(_CHECK_DATABASE)(database)
            os.environ[DATABASE] = database
        say("server: starts")
        os.environ["PREFECT_SERVER_UI_API_URL"] = api  # else the dashboard asks the default port
        running.start()
        os.environ.pop(DATABASE, None)  # it holds a password, which is the server's alone
    elif database and not running.has_variable(DATABASE, database):
        raise UserError("the server is up with another database; `ssld down` first")
    if not wait_until(lambda: is_healthy(api) or running.pid() is None, 180) or not is_healthy(api):
        running.stop(10)
        raise UserError(f"the server did not start; see {running.log} (is port {port} taken?)")


def _start_scheduler(host: str) -> None:
    running = scheduler(host)
    running.start()

    def is_up() -> bool:
        with socket.socket() as one:
            return one.connect_ex((host, PORT)) == 0

    wait_until(lambda: is_up() or running.pid() is None, 60)
    if running.pid() is None or not is_up():
        running.stop(10)
        raise UserError(f"the scheduler did not start; see {running.log} (is port {PORT} taken?)")


def _deploy(say: Callable[[str], None]) -> None:
    command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", DEPLOYMENTS]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"the deployments were not made within {DEPLOY_SECONDS} s; see {home() / 'server.log'}"
        ) from error
    if done.returncode:
        raise UserError(f"the deployments could not be made:\n{done.stdout}{done.stderr}")
    say("deployments: ready")


def down(say: Callable[[str], None]) -> None:
    """Cancel running flows, wait until they have saved their work, stop workers and server.

    It ends within bounds, even where the server does not answer, and leaves nothing running.
    """
    port = _current_port()
    running = server(port or 0)
    was_up = running.pid() is not None
    pools = [pool for pool, worker in workers().items() if worker.pid() is not None]
    if port is not None and was_up and pools:
        _cancel_runs(_api_of(port, _current_host()), pools, say)
    for service in (*workers().values(), scheduler(), running):
        was_there = bool(service.members())
        killed = service.stop(STOP_SECONDS)
        if was_there:
            say(f"{service.name}: stopped")
        if killed:
            say(f"{service.name}: {killed} of its processes did not end by themselves; killed")
    if port is None or not was_up:
        say("server: not running")
    if port is not None:
        os.environ["PREFECT_API_URL"] = _api_of(port, _current_host())
        resolve_name(_STATE).leave_profile(PROFILE, home() / PREVIOUS)


def _cancel_runs(api: str, pools: Sequence[str], say: Callable[[str], None]) -> None:
    """Cancel what runs, as long as the server answers; else the signal that follows does it."""
    os.environ |= {"PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    os.environ["PREFECT_API_REQUEST_TIMEOUT"] = "10"
    reason = "no answer"
    if is_healthy(api):
        prefect_state = resolve_name(_STATE)
        try:
            for name in prefect_state.cancel_running(pools, CANCEL_SECONDS):
                say(f"run {name}: cancelled")
            return
        except prefect_state.API_ERRORS as error:
            reason = str(error) or type(error).__name__
    say(f"the server cannot cancel runs ({reason}); they are stopped by signal")


def _current_port() -> int | None:
    """Port of the server that `up` started last."""
    command = (read_json(home() / "server.json") or {}).get("command")
    return int(command[-1]) if command else None


def _current_host() -> str:
    """Address of the server that `up` started last."""
    command = (read_json(home() / "server.json") or {}).get("command")
    return command[command.index("--host") + 1] if command else "127.0.0.1"
