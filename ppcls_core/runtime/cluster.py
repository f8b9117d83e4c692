"""Shards made by the workers of other hosts, which Dask gives them to.

    run_on(cluster, job, monitor)       # `cluster`: "local" for this process, or the head's address

A worker (`tasks.run.hosts`) makes one shard at a time, by all of its host's cores or GPUs, and
writes it where a single machine would: into the folder that all hosts share. What the head hears
are numbers. A shard whose worker dies is made by another one, until it has ended three.

Whoever reaches a scheduler or a worker can run code there. So they speak over TLS alone, and only
with those that hold the file `certificate()`, which the head has made.
"""

import logging
import os
import pickle
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any
from uuid import uuid4

from data_catalog.base.config import UserError
from data_catalog.base.files import user_folder
from ppcls_core.runtime.monitor import Interrupted, Monitor, check
from ppcls_core.runtime.shards import Process, ShardJob, run_shards

LOCAL, PORT = "local", 8786
CPU, GPU = "CPU", "GPU"  # resources of Dask: each worker has one, each shard needs one
MAX_DEATHS = 3  # of workers, until a shard is given up
CONNECT_SECONDS, POLL_SECONDS, REPORT_SECONDS, RATE_SECONDS = 20, 0.05, 0.5, 10.0


def certificate() -> Path:
    """The file of the key and certificate that every host of a cluster has; it is a password."""
    return user_folder("XDG_CONFIG_HOME", ".config") / "cluster.pem"


def make_certificate() -> Path:
    """The `certificate`, made for a year unless it is there."""
    path = certificate()
    if not path.exists():
        made = import_dask().Security.temporary()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(made.tls_client_cert + made.tls_client_key)
    return path


def security() -> Any:
    """Dask's settings for connections among those that hold the `certificate`. Raises UserError:
    it is not here."""
    path = certificate()
    if not path.is_file():
        raise UserError(
            f"{path}: no certificate; `ssld up --share ADDRESS` makes it on the head: copy it from "
            "there to the same place on this host, readable by you alone"
        )
    of = {f"tls_{who}_cert": str(path) for who in ("client", "scheduler", "worker")}
    return import_dask().Security(require_encryption=True, tls_ca_file=str(path), **of)


def import_dask() -> Any:
    """The module `distributed`, imported now, with no web pages and quiet but for errors. Raises
    UserError: it is not installed."""
    try:
        dask = resolve_name("distributed")
    except ModuleNotFoundError as error:
        raise UserError(
            f"a cluster needs Dask ({error}): install the extra `cluster` of this project"
        ) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return dask


def address(host: str) -> str:
    """The address of the scheduler on `host`, which may have a port."""
    return f"tls://{host}" if host.rpartition(":")[2].isdigit() else f"tls://{host}:{PORT}"


@contextmanager
def connected(host: str) -> Iterator[Any]:
    """A Dask client of the scheduler on `host`. Raises UserError: it does not answer, or refuses
    this host's certificate."""
    dask, where, own = import_dask(), address(host), security()
    try:
        client = dask.Client(where, security=own, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise UserError(
            f"no scheduler answers at {where} ({error.__cause__ or error}); is `ssld up --share` "
            f"running there, the port open, and {certificate()} that of the head?"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=5)


def run_on(cluster: str, job: ShardJob, monitor: Monitor) -> int:
    """Make every shard of `job` that is not whole yet, by `cluster`; the number of shards.

    Raises Interrupted: a stop was requested; UserError: as the job itself, no cluster answers, or a
    shard has ended MAX_DEATHS workers. Finished shards are kept in any case.
    """
    if cluster == LOCAL:
        return run_shards(job, monitor)
    if missing := job.missing(monitor):
        with connected(cluster) as client:
            _Head(client, job, monitor, deque(missing)).run()
    return job.num_shards


@dataclass
class _Rates:
    """Rows that each worker has told of."""

    rows: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    began: dict[str, float] = field(default_factory=dict[str, float])
    _told: dict[str, int] = field(default_factory=dict[str, int])
    _at: float = field(default_factory=time.monotonic)

    def add(self, worker: str, rows: int) -> None:
        self.began.setdefault(worker, time.monotonic())
        self.rows[worker] += rows

    def recent(self, unit: str) -> dict[str, float]:
        """Rows a second by worker, once in RATE_SECONDS; else nothing."""
        seconds = time.monotonic() - self._at
        if seconds < RATE_SECONDS:
            return {}
        new = {name: rows - self._told.get(name, 0) for name, rows in self.rows.items()}
        self._told, self._at = dict(self.rows), time.monotonic()
        return {f"{name} {unit}/s": rows / seconds for name, rows in new.items()}


@dataclass
class _Head:
    """A job on its way through a cluster, as the process that has asked for it sees it."""

    client: Any
    job: ShardJob
    monitor: Monitor
    waiting: deque[int]
    _id: str = field(default_factory=lambda: f"shards-{uuid4().hex}")
    _heard: SimpleQueue[Any] = field(default_factory=SimpleQueue[Any])
    _given: dict[Any, int] = field(default_factory=dict[Any, int])  # future -> shard
    _rows: dict[int, int] = field(default_factory=dict[int, int])  # done of each shard
    _fatal: dict[int, str] = field(default_factory=dict[int, str])  # shard -> its last worker
    _rates: _Rates = field(default_factory=_Rates)
    _room: int = 0  # shards that may be given at once
    _resource: str | None = None
    _is_open: bool = False  # whether a worker has opened the job
    _waits: bool = False  # for a worker to join

    def run(self) -> None:
        """Until every shard is made or given up."""
        before = self.job.num_rows - sum(len(self.job.rows(number)) for number in self.waiting)
        payload, looked = pickle.dumps(self.job), float("-inf")
        self.client.subscribe_topic(self._id, lambda event: self._heard.put(event[1]))
        try:
            while self.waiting or self._given:
                check(self.monitor)
                if self.client.status != "running":  # Dask would try to connect for a while
                    raise self._lost()
                if time.monotonic() - looked > 1:
                    self._look_for_workers()
                    looked = time.monotonic()
                while self.waiting and len(self._given) < self._room:
                    self._give(payload, self.waiting.popleft())
                time.sleep(POLL_SECONDS)
                self._hear()
                for future in [one for one in self._given if one.status != "pending"]:
                    self._take(future)
                done = before + sum(self._rows.values())
                self.monitor.progress(done, self.job.num_rows, self.job.unit)
                if figures := self._rates.recent(self.job.unit):
                    self.monitor.metrics(figures)
        finally:
            if self.client.status == "running":
                self.client.cancel(list(self._given))
                self.client.run(end_job, self._id, wait=False, on_error="ignore")
        for name, rows in self._rates.rows.items():
            seconds = time.monotonic() - self._rates.began[name]
            self.monitor.note(f"{name}: {rows:,} {self.job.unit}, {rows / seconds:,.1f}/s")
        if self._fatal:
            raise UserError(self._named())

    def _look_for_workers(self) -> None:
        """How many there are, and at the beginning whether those with GPUs shall do it."""
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except OSError as error:
            raise self._lost() from error
        kinds = [kind for worker in workers for kind in worker["resources"]]
        if self._resource is None and kinds:
            self._resource = GPU if self.job.on_gpu and GPU in kinds else CPU
        room = kinds.count(self._resource or "")
        if not room and not self._waits:
            self.monitor.note("waits for a worker: `ssld worker --join` on any host")
        self._waits = not room
        # Dask would queue on the workers, and a death is blamed on all that its worker has queued.
        # The first opens the job alone, which may settle what holds for all shards.
        self._room = room if self._is_open else min(room, 1)

    def _give(self, payload: bytes, number: int) -> None:
        future = self.client.submit(
            make_shard,
            self._id,
            payload,
            number,
            key=f"{self._id}-{number}",
            resources={self._resource: 1},
        )
        self._given[future] = number

    def _hear(self) -> None:
        while True:
            try:
                told = self._heard.get_nowait()
            except Empty:
                return
            if note := told.get("note"):
                self.monitor.note(f"{told['host']}: {note}")
            else:
                self._is_open = True
                rows = self._rows.get(told["shard"], 0)
                self._rows[told["shard"]] = told["rows"]
                self._rates.add(told["host"], max(0, told["rows"] - rows))

    def _take(self, future: Any) -> None:
        """Count a shard that is made; raise what it has failed of, unless its workers died."""
        number = self._given.pop(future)
        if future.status == "finished":
            self._rows[number] = len(self.job.rows(number))
            return
        if future.status != "error":  # lost or cancelled, with its scheduler
            raise self._lost()
        error = future.exception()
        if not isinstance(error, import_dask().KilledWorker):
            raise error
        self._fatal[number] = error.last_worker.name

    def _lost(self) -> UserError:
        return UserError(
            "the scheduler of the cluster has ended, or cannot be reached any more; finished "
            "shards are kept: run again when it is up"
        )

    def _named(self) -> str:
        """Which shards were given up."""
        shards = ", ".join(
            f"shard {number} ({self.job.unit} {self.job.rows(number).start:,} to "
            f"{self.job.rows(number).stop - 1:,}; at last on {worker})"
            for number, worker in sorted(self._fatal.items())
        )
        return (
            f"{self.job.directory}: given up after each has ended {MAX_DEATHS} workers: {shards}. "
            "All other shards are finished; see the workers' messages, and run again"
        )


@dataclass
class _Reporter:
    """The Monitor of a shard on a worker: it tells the head."""

    worker: Any
    job: str
    shard: int
    before: int  # rows of the other shards
    _sent: float = 0.0

    @property
    def stop_requested(self) -> bool:
        return self.job in _opened.ended

    def progress(self, done: int, total: int, unit: str) -> None:
        if time.monotonic() - self._sent > REPORT_SECONDS:
            self._sent = time.monotonic()
            self.tell(rows=done - self.before)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Nothing: no figures come of a shard."""

    def note(self, message: str) -> None:
        self.tell(note=message)

    def tell(self, **what: Any) -> None:
        self.worker.log_event(self.job, {"host": self.worker.name, "shard": self.shard, **what})


@dataclass
class _Opened:
    """The job that this worker has open from one shard to the next."""

    lock: Lock = field(default_factory=Lock)  # a shard is being made
    ended: set[str] = field(default_factory=set[str])
    _id: str = ""
    _job: ShardJob | None = None
    _processes: Sequence[Process] = ()
    _stack: ExitStack = field(default_factory=ExitStack)

    def get(
        self, job: str, payload: bytes, monitor: _Reporter
    ) -> tuple[ShardJob, Sequence[Process]]:
        if self._id != job or self._job is None:
            self.close()
            self._id, self._job = job, pickle.loads(payload)
            assert self._job is not None
            self._processes = self._stack.enter_context(self._job.opening(monitor))
        return self._job, self._processes

    def close(self, job: str | None = None) -> None:
        """Close it if it is `job`, or whatever it is."""
        if job in (None, self._id):
            self._id, self._job, self._processes = "", None, ()
            self._stack.close()


_opened = _Opened()


def make_shard(job: str, payload: bytes, number: int) -> None:
    """On a worker: make shard `number` of the pickled ShardJob, which stays open for the next."""
    reporter = _Reporter(import_dask().get_worker(), job, number, 0)
    with _opened.lock:
        try:
            opened, processes = _opened.get(job, payload, reporter)
            reporter.before = opened.num_rows - len(opened.rows(number))
            reporter.tell(rows=0)
            opened.make([number], reporter, processes)
            reporter.tell(rows=len(opened.rows(number)))
        except Interrupted:
            _opened.close()
        except UserError as error:
            _opened.close()
            raise UserError(f"{reporter.worker.name}: {error}") from None
        except BaseException:
            _opened.close()
            raise
        if job in _opened.ended:
            _opened.close()


async def end_job(job: str) -> None:
    """On each worker: stop what it makes of `job`, and close it."""
    _opened.ended.add(job)
    if _opened.lock.acquire(blocking=False):
        try:
            _opened.close(job)
        finally:
            _opened.lock.release()
