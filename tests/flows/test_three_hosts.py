"""A head and two hosts in network namespaces: shared by a password, one host lost in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ppcls_core.runtime.cluster import make_certificate
from tests.conftest import TINY
from tests.flows.conftest import run_stages
from tests.support.hosts import Hosts, hosts, namespaces
from tests.support.processes import is_of, wait_until, with_environment

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
    return [pid for pid in pids if is_of(pid, "open_engines")]


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
    settings = ("--set", f"run_time.cluster={HEAD}", "--set", SMALL)
    run = shared.start("head", "flows.cli", "run", str(TINY), "--only", "label", *settings)
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
    for host, stage in (("one", "dedup"), ("one", "label"), ("two", "dedup")):
        assert any(f" {stage} " in line and f" {host} (" in line for line in said), said


RUN = """
import sys
from pathlib import Path
from ppcls_core.runtime.monitor import SilentMonitor
from tests.flows.conftest import run_stages

class Told(SilentMonitor):
    def note(self, message):
        print("note:", message, flush=True)

    def progress(self, done, total, unit):
        if unit == "steps":
            print("step", done, flush=True)

import tests.flows.conftest as conftest
conftest.SilentMonitor = Told
done, _ = run_stages(Path(sys.argv[1]), sys.argv[2:], until="baseline")
print("digest", done["baseline"].digest, done["baseline"].record["devices"])
"""
LONG = ["baseline.epochs=30", "baseline.eval_every=100", "run_time.checkpoint_seconds=0.2"]


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hosts, dict]]:
    """A scheduler and two hosts, without Prefect; the processes of the hosts."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    variables = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s"}
    with (
        namespaces(["head", "one", "two"], NETWORK) as prefix,
        hosts(tmp_path, prefix, **variables) as found,
    ):
        make_certificate()
        found.start("head", "tasks.run.hosts", HEAD)
        workers = {}
        for name in ("one", "two"):
            workers[name] = found.start(name, "flows.cli", "worker", "--join", HEAD)
            found.wait_for(name, "joined")
        (tmp_path / "run_it.py").write_text(RUN)
        yield replace(found, path=str(tmp_path)), workers


def test_two_hosts_train_as_one_and_go_on_when_one_is_lost(
    joined: tuple[Hosts, dict[str, subprocess.Popen[str]]], tmp_path: Path
) -> None:
    shared, workers = joined
    two = [*LONG, f"run_time.cluster={HEAD}", "run_time.hosts=2"]

    def train(store: str, *settings: str) -> subprocess.Popen[str]:
        return shared.start("head", "run_it", str(tmp_path / store), *two, *settings)

    assert train("whole").wait(300) == 0, shared.log("head")
    local = ["run_time.devices=2", *LONG]
    alone, _ = run_stages(tmp_path / "alone", local, until="baseline")
    assert f"digest {alone['baseline'].digest} 2" in shared.log("head")

    run = train("lost", "baseline.epochs=60")
    assert wait_until(lambda: shared.log("head").count("step 20\n") == 2, 200), shared.log("head")
    subprocess.run(["ip", "-n", f"{shared.prefix}two", "link", "set", "eth0", "down"], check=True)
    shared.kill(workers["two"])
    assert run.wait(400) == 0, shared.log("head")
    assert "note: a host is lost; goes on with 1 from the last checkpoint" in shared.log("head")
    assert "note: resumes at step" in shared.log("head")

    missing = train("missing")
    assert missing.wait(200) == 1
    assert "2 hosts are needed, 1 have joined (one (" in shared.log("head")
