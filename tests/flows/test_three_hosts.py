"""A head and two hosts in network namespaces: shared by a password, one host lost in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppcls_core.runtime.cluster import make_certificate
from tests.conftest import TINY
from tests.flows.conftest import run_stages
from tests.support.hosts import Hosts, hosts, namespaces
from tests.support.processes import wait_until, with_environment

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NETWORK = "10.231.77"
HEAD = f"{NETWORK}.1"
SMALL = "shard_size=2"
ASK = """
import sys
import httpx
for password in sys.argv[2:]:
    answer = httpx.post(sys.argv[1] + "/work_pools/filter", auth=("ssld", password), json={})
    print(answer.status_code)
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """A head that has done `ssld up --share`, and two hosts that have joined it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    variables = {"SSLD_PASSWORD": "right", "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s"}
    with (
        namespaces(["head", "one", "two"], NETWORK) as prefix,
        hosts(tmp_path, prefix, **variables) as found,
    ):
        make_certificate()
        up = found.start("head", "flows.cli", "up", "--share", HEAD, "--port", "4242")
        assert up.wait(300) == 0, found.log("head")
        yield found
        assert found.start("head", "flows.cli", "down").wait(120) == 0, found.log("head")


def engines_of(host: str) -> list[int]:
    """Processes of a host that run networks."""
    pids = with_environment(f"SSLD_TEST_HOST={host}")
    return [p for p in pids if b"open_engines" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_a_host_lost_in_the_middle_changes_nothing(shared: Hosts, tmp_path: Path) -> None:
    address = f"http://{HEAD}:4242/api"
    command = [sys.executable, "-c", ASK, address, "wrong", "right"]
    within = ["ip", "netns", "exec", f"{shared.prefix}one"]
    done = subprocess.run([*within, *command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["401", "200"]

    workers = {
        name: shared.start(name, "flows.cli", "worker", "--join", HEAD, SSLD_TEST_HOST=name)
        for name in ("one", "two")
    }
    for name in workers:
        shared.wait_for(name, "joined")
    settings = f"run_time.cluster={HEAD} {SMALL}"
    run = shared.start("head", "flows.cli", "run", str(TINY), "--only", "label", "--set", settings)
    assert wait_until(lambda: engines_of("two") or run.poll() is not None, 300)
    assert run.poll() is None, shared.log("head")
    subprocess.run(["ip", "-n", f"{shared.prefix}two", "link", "set", "eth0", "down"], check=True)
    shared.kill(workers["two"])
    assert run.wait(300) == 0, shared.log("head")

    here, _ = run_stages(tmp_path / "here", [SMALL], until="label")
    there, ran = run_stages(tmp_path / "home" / "store", [SMALL], until="label")
    assert not ran, "the store is finished"
    assert {n: r.digest for n, r in there.items()} == {n: r.digest for n, r in here.items()}
    said = [line for line in shared.log("head").splitlines() if "images/s" in line or "/s" in line]
    name = os.uname().nodename
    for host, stages in ((f"{NETWORK}.2", ("dedup", "label")), (f"{NETWORK}.3", ("dedup",))):
        for stage in stages:
            assert any(stage in line and f"{name} ({host}):" in line for line in said), said
