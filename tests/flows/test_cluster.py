"""Shards over hosts: the same bytes, whoever makes them and whoever dies; strangers are refused."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from data_catalog.images.collect import collect
from data_catalog.images.columns import moved
from ppcls_core.cli.dedup import search_given
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import INDEX, SHARDS, Search
from ppcls_core.runtime import cluster
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from ppcls_core.runtime.shards import Process, ShardJob, run_shards
from tasks.dag import STAGES
from tasks.recipe import load_recipe
from tasks.run.hosts import serve
from tasks.run.session import Session
from tasks.run.store import Store
from tests.conftest import TINY
from tests.ppcls_core.dedup.test_dedup_command import picture, save
from tests.support.hosts import (
    Hosts,
    deadly_numbers,
    hosts,
    numbers,
    opened,
    slow_numbers,
)
from tests.support.processes import wait_until

dask = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = [
    # Dask's threads close their sockets when they come to it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Listener(SilentMonitor):
    """Keeps what it is told; asks to stop once `stops` is set, or `stops_at` rows are done."""

    def __init__(self, stops_at: int | None = None) -> None:
        self._stops_at = stops_at
        self.notes: list[str] = []
        self.done: list[int] = []
        self.stops = threading.Event()

    @property
    def stop_requested(self) -> bool:
        return self.stops.is_set()

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, done: int, total: int, unit: str) -> None:
        self.done.append(done)
        if self._stops_at is not None and done >= self._stops_at:
            self.stops.set()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A scheduler and a worker on loopback; `variables["HEAD"]` is the address."""
    head = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("near")
    with hosts(folder, HEAD=head) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", found.environment["XDG_CONFIG_HOME"])
        cluster.make_certificate()
        found.start("head", "tasks.run.hosts", head)
        assert wait_until(lambda: answers(head), 60), found.log("head")
        found.start("one", "flows.cli", "worker", "--join", head)
        found.wait_for("one", "joined")
        yield found


def answers(head: str) -> bool:
    host, port = head.split(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def job(folder: Path, process: Process, rows: int = 11) -> ShardJob:
    return ShardJob(folder, rows, 2, partial(opened, process))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_recipes_cluster_is_in_no_key(tmp_path: Path) -> None:
    keys = [
        Session(load_recipe(str(TINY), settings), Store(tmp_path)).key(STAGES["data"])
        for settings in ([], ["run_time.cluster=head.example"])
    ]
    assert keys[0] == keys[1]
    assert all("run_time" not in stage.settings for stage in STAGES.values())


def test_roots_lie_where_this_host_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLD_ROOTS", '{"/data": "/mnt/a", "/data/pool": "/mnt/b"}')
    roots = {"x": "/data/x", "pool": "/data/pool", "other": "/database"}
    assert moved(roots) == {"x": "/mnt/a/x", "pool": "/mnt/b", "other": "/database"}


def test_without_a_certificate_nothing_is_served_or_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("SSLD_HOME", str(tmp_path))
    for ask in (serve, lambda host: cluster.run_on(host, job(tmp_path, numbers), Listener())):
        with pytest.raises(UserError, match=r"cluster.pem: no certificate; `ssld up --share"):
            ask("127.0.0.1")


@pytest.mark.parametrize(
    ("joined", "on_gpu", "kind", "room"),
    [
        (["CPU", "CPU", "GPU"], True, "GPU", 1),
        (["CPU", "CPU", "GPU"], False, "CPU", 2),
        (["CPU", "CPU"], True, "CPU", 2),
    ],
)
def test_what_a_gpu_is_for_goes_to_workers_that_have_one(
    tmp_path: Path, joined: list[str], on_gpu: bool, kind: str, room: int
) -> None:
    given = []

    class Client:
        def scheduler_info(self, n_workers: int) -> dict:
            return {"workers": {str(n): {"resources": {k: 1.0}} for n, k in enumerate(joined)}}

        def submit(self, *arguments: object, resources: dict, **options: object) -> object:
            given.append(resources)
            return object()

    todo = dataclasses.replace(job(tmp_path, numbers), on_gpu=on_gpu)
    head = cluster._Head(Client(), todo, Listener(), deque(range(6)))
    head._look_for_workers()
    assert head._room == 1, "the first opens the job alone"
    head._is_open = True
    head._look_for_workers()
    head._give(b"", 0)
    assert (head._room, given) == (room, [{kind: 1}])


@pytest.mark.slow
def test_a_cluster_makes_the_same_files(near: Hosts, tmp_path: Path) -> None:
    run_shards(job(tmp_path / "here", numbers), SilentMonitor())
    monitor = Listener()
    assert cluster.run_on(near.variables["HEAD"], job(tmp_path / "there", numbers), monitor) == 6
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert monitor.done[-1] == 11
    assert f"{os.uname().nodename} (127.0.0.1): 11 images" in monitor.notes[-1]


@pytest.mark.slow
def test_a_search_by_itself_finds_the_same(near: Hosts, tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / "pool" / f"{number}.png", picture(number)[8:112, 10:150])
        save(tmp_path / "val" / f"{number}.png", picture(number % 4))
    config, found = DedupConfig(num_features=120, min_side=96, canaries=5), []
    for name, where in (("here", cluster.LOCAL), ("there", near.variables["HEAD"])):
        sets, out = (tmp_path / "pool", tmp_path / "val"), tmp_path / name
        search_given(*sets, out, config, Listener(), where)
        inner = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
        found.append({str(path.relative_to(out)): path.read_bytes() for path in inner})
    assert found[0] == found[1]
    assert "kept.arrow" in found[0]


@pytest.mark.slow
def test_a_search_in_the_index_of_another_finds_the_same(near: Hosts, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "pool" / f"{number}.png", picture(number)[8:112, 10:150])
        save(tmp_path / "val" / f"{number}.png", picture(number + 1))
    pool, val = (collect(tmp_path / name) for name in ("pool", "val"))
    here = Search(pool, val, tmp_path / "here", DedupConfig(num_features=120, canaries=0), 1)
    there = dataclasses.replace(
        here, out=tmp_path / "there", cluster=near.variables["HEAD"], index=here.out / INDEX
    )
    for search in (here, there):
        assert find_duplicates(search, Listener()).num_pairs == 2
    assert files(there.out / SHARDS) == files(here.out / SHARDS)
    assert not (there.out / INDEX).exists()


@pytest.mark.slow
def test_a_shard_that_kills_its_worker_three_times_is_named(near: Hosts, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"after each has ended 3 workers: shard 2 \(images 4 to 5"):
        cluster.run_on(near.variables["HEAD"], job(tmp_path, deadly_numbers), Listener())
    numbers_made = sorted(int(path.name[6:11]) for path in tmp_path.glob("*.json"))
    assert numbers_made == [0, 1, 3, 4, 5]


@pytest.mark.slow
def test_a_stop_reaches_the_worker(near: Hosts, tmp_path: Path) -> None:
    monitor = Listener(stops_at=1)
    with pytest.raises(Interrupted):
        cluster.run_on(near.variables["HEAD"], job(tmp_path, slow_numbers, rows=60), monitor)
    assert cluster.run_on(near.variables["HEAD"], job(tmp_path / "next", numbers), Listener()) == 6
    assert len(list(tmp_path.glob("*.json"))) < 30


@pytest.mark.slow
def test_a_stranger_is_refused(near: Hosts, tmp_path: Path, monkeypatch) -> None:
    head = near.variables["HEAD"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    cluster.make_certificate()  # another one
    with pytest.raises(UserError, match="no scheduler answers"):
        cluster.run_on(head, job(tmp_path / "x", numbers), Listener())
    with pytest.raises(OSError, match=r"reset|imed out|closed"):
        dask.Client(f"tcp://{head}", timeout=2, set_as_default=False)
    assert not list(tmp_path.glob("x/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"SSLD_HOME": "/tmp/another"}, "share it under one path"),
        ({"SSLD_TEST_COMMIT": "other"}, "use the same commit on every host"),
        ({"SSLD_TEST_LOCKS": "none"}, "a lock that the head holds is not seen here"),
    ],
)
def test_a_host_that_would_make_other_results_does_not_join(
    near: Hosts, tmp_path: Path, variables: dict[str, str], why: str
) -> None:
    code = f"""
import contextlib, os
import tasks.run.hosts as hosts
if "SSLD_TEST_COMMIT" in os.environ:
    hosts.source_hash = lambda module: "0" * 12
if "SSLD_TEST_LOCKS" in os.environ:
    hosts.locked = lambda path: contextlib.nullcontext()
hosts.check_shared("{near.variables["HEAD"]}")
"""
    environment = {**near.environment, **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert why in done.stderr


@pytest.mark.slow
def test_the_schedulers_death_loses_nothing(near: Hosts, tmp_path: Path) -> None:
    head = f"127.0.0.1:{free_port()}"
    near = Hosts(near.folder, {**near.variables, "SSLD_HOME": str(tmp_path / "home")})
    scheduler = near.start("second", "tasks.run.hosts", head)
    assert wait_until(lambda: answers(head), 60), near.log("second")
    worker = near.start("other", "flows.cli", "worker", "--join", head)
    near.wait_for("other", "joined")
    begun = wait_for_first(tmp_path / "shards", scheduler)
    with pytest.raises(UserError, match="finished shards are kept: run again when it is up"):
        cluster.run_on(head, job(tmp_path / "shards", slow_numbers), Listener())
    begun.join()
    near.start("second", "tasks.run.hosts", head)
    monitor = Listener()
    assert cluster_answers(head, job(tmp_path / "shards", slow_numbers), monitor) == 6
    assert "of 6 shards of images are already finished" in monitor.notes[0]
    run_shards(job(tmp_path / "here", numbers), SilentMonitor())
    assert files(tmp_path / "shards") == files(tmp_path / "here")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def wait_for_first(folder: Path, scheduler: subprocess.Popen[str]) -> threading.Thread:
    """Kill the scheduler when a shard is there."""

    def kill() -> None:
        assert wait_until(lambda: any(folder.glob("*.json")), 100)
        scheduler.kill()
        scheduler.wait()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def cluster_answers(head: str, todo: ShardJob, monitor: Listener) -> int:
    assert wait_until(lambda: answers(head), 60)
    return cluster.run_on(head, todo, monitor)
