"""A cluster on this machine: its processes, each on an address of its own, and jobs to give it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.shards import Advance, Process
from tests.conftest import PROJECT
from tests.support.processes import kill_with_environment, wait_until


@dataclass
class Hosts:
    """Processes with one store and one certificate, by the name of their host and what they are."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""  # of the namespaces' names; empty: all on this machine's loopback
    path: str = ""  # a folder of further modules
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        own = {"SSLD_HOME": "home", "XDG_CONFIG_HOME": "config", "PREFECT_HOME": "prefect"}
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", ""), self.path])
        return {
            **os.environ,
            **{name: str(self.folder / place) for name, place in own.items()},
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }

    def start(self, host: str, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start `python -m ...` on a host; its output goes to HOST.log.

        In a namespace it has a network and, but for the head, whose services outlive what starts
        them, a host name and process ids of its own.
        """
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        name = ["sh", "-c", 'hostname "$0" && exec "$@"', host]
        space = ["ip", "netns", "exec", self.prefix + host, *apart, *name]
        within = (space[:4] if host == "head" else space) if self.prefix else []
        with (self.folder / f"{host}.log").open("ab") as log:
            process = subprocess.Popen(
                [*within, sys.executable, "-W", "ignore", "-m", *command],
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                cwd=PROJECT,
                env=self.environment | variables,
            )
        self._started.append(process)
        return process

    def log(self, host: str) -> str:
        """What the host's processes have said."""
        path = self.folder / f"{host}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, host: str, text: str, seconds: float = 120) -> None:
        """Wait until a host has said `text`."""
        assert wait_until(lambda: text in self.log(host), seconds), self.log(host)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill what was started, with all that it has started in turn."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def hosts(folder: Path, prefix: str = "", **variables: str) -> Iterator[Hosts]:
    """Hosts whose processes end with the block."""
    mark, started = {"SSLD_TEST_HOSTS": str(folder)}, list[subprocess.Popen[str]]()
    try:
        yield Hosts(folder, mark | variables, prefix, _started=started)
    finally:
        kill_with_environment(f"SSLD_TEST_HOSTS={folder}")
        for process in started:
            process.wait()


@contextmanager
def namespaces(names: Sequence[str], network: str) -> Iterator[str]:
    """A network namespace for each name, 10.x.y.1, 10.x.y.2 ... on a bridge; the prefix of their
    names. Skips the test without the rights."""
    prefix = f"s{os.getpid() % 100_000}"
    bridge = f"{prefix}br"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    if shutil.which("ip") is None:
        pytest.skip("network namespaces need `ip`")
    try:
        ip("link", "add", bridge, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no rights for network namespaces: {error.stderr.decode().strip()}")
    try:
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 1):
            space = prefix + name
            ip("netns", "add", space)
            ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", space, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{network}.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", prefix + name], capture_output=True)
            subprocess.run(["ip", "link", "delete", prefix + name], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


def numbers(rows: range, advance: Advance) -> dict[str, pa.Table]:
    """The tables of a shard that holds its rows' numbers."""
    advance(len(rows))
    return {"x": pa.table({"x": list(rows)})}


def slow_numbers(rows: range, advance: Advance) -> dict[str, pa.Table]:
    """As `numbers`, in 0.3 seconds a row."""
    for _ in rows:
        time.sleep(0.3)
        advance()
    return {"x": pa.table({"x": list(rows)})}


def deadly_numbers(rows: range, advance: Advance) -> dict[str, pa.Table]:
    """As `numbers`, but for the rows from 4 on, which kill their process."""
    if rows.start == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(rows, advance)


def opened(process: Process, monitor: Monitor) -> nullcontext[list[Process]]:
    """An opening of a job that needs no preparation."""
    return nullcontext([process])
