"""A training stage on several hosts of a cluster, which train as one.

    head     this process, which gives each host its part and hears of the first rank's progress
    hosts    a worker each, whose ranks are processes as on one machine (`run_ranks`)

They find each other by the variables that Paddle's launcher sets (`--master`, `--nnodes`, `--rank`
of one started by hand). A host that is lost takes the exchange with it: the others end, and the
stage goes on from its last checkpoint with the hosts that are left.
"""

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.runtime.cluster import CPU, GPU, connected, import_dask
from ppcls_core.runtime.monitor import Interrupted
from ppcls_core.runtime.processes import PeerEnded
from ppcls_core.runtime.ranks import environments_of, free_addresses
from tasks.run.processes import elsewhere, here, run_ranks, trainings
from tasks.run.stage import Outcome, Stage, Work

POLL_SECONDS = 0.2
LOST_SECONDS = 90.0  # after a host's part has failed, for the others' and for news of a lost one
JOIN_SECONDS = 30.0  # for a host to join that is missing


def run_on_hosts(stage: Stage, work: Work) -> Outcome:
    """The outcome of `stage`, run by `run_time.hosts` hosts of the recipe's cluster with `devices`
    processes each. Raises UserError: as the stage itself, or there are too few hosts; Interrupted:
    a stop was requested and a checkpoint is written."""
    run_time = work.recipe.run_time
    with connected(run_time.cluster) as client:
        wanted = run_time.hosts
        while True:
            addresses = _hosts(client, wanted, work)
            outcome = _Team(client, stage, work, addresses).run()
            if outcome is not None:
                return outcome
            wanted = _fewer(client, wanted, work)


def _hosts(client: Any, num: int, work: Work) -> dict[str, str]:
    """Address of a worker of each of `num` hosts -> its name. Raises UserError: there are fewer."""
    end = time.monotonic() + JOIN_SECONDS
    while len(found := _joined(client)) < num:
        if time.monotonic() > end:
            raise UserError(
                f"stage {work.stage}: {counted(num, 'host is', 'hosts are')} needed, {len(found)} "
                f"have joined ({', '.join(found.values()) or 'none'}); `ssld worker --join` on the "
                "others, or set run_time.hosts, then run again: it goes on from its checkpoint"
            )
        time.sleep(POLL_SECONDS)
    return dict(list(found.items())[:num])


def _joined(client: Any) -> dict[str, str]:
    """Address -> name of each worker; of those with GPUs alone where there are some."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    kinds = {kind for worker in workers.values() for kind in worker["resources"]}
    kind = GPU if GPU in kinds else CPU
    return {a: w["name"] for a, w in sorted(workers.items()) if kind in w["resources"]}


def _fewer(client: Any, wanted: int, work: Work) -> int:
    """How many of the hosts that are left can share the batch."""
    recipe = work.recipe
    config, left = trainings(recipe)[work.stage], len(_joined(client))
    parts = recipe.run_time.devices * config.accumulate
    fitting = [n for n in range(1, min(wanted, left) + 1) if config.batch_size % (n * parts) == 0]
    if not fitting:
        return 1  # none is there: `_hosts` waits for one, or says so
    work.monitor.note(f"a host is lost; goes on with {fitting[-1]} from the last checkpoint")
    return fitting[-1]


@dataclass
class _Team:
    """The hosts of one attempt."""

    client: Any
    stage: Stage
    work: Work
    hosts: Mapping[str, str]  # address -> name
    _id: str = field(default_factory=lambda: f"team-{uuid4().hex}")
    _heard: SimpleQueue[Any] = field(default_factory=SimpleQueue[Any])
    _parts: list[Any] = field(default_factory=list[Any])  # futures, by host

    def run(self) -> Outcome | None:
        """The outcome; None: a host was lost."""
        self.client.subscribe_topic(self._id, lambda event: self._heard.put(event[1]))
        num = self.work.recipe.run_time.devices
        given = pickle.dumps((self.stage, elsewhere(self.work)))
        try:
            found = self._ask(find_addresses, [(num + 1,) for _ in self.hosts])
            if self._all_finished():
                (master, *first), *others = (one.result() for one in found)
                endpoints = [first, *(own[1:] for own in others)]
                places = [(endpoints, master, number) for number in range(len(self.hosts))]
                self._ask(run_part, [(self._id, given, place) for place in places])
            return self._outcome()
        finally:
            if self.client.status == "running":
                self.client.run(end_team, self._id, wait=False, on_error="ignore")
                self.client.cancel(self._parts)

    def _ask(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call `function` on each host, and wait; the futures."""
        self._parts = [
            self.client.submit(function, *given, workers=[host], pure=False)
            for host, given in zip(self.hosts, arguments, strict=True)
        ]
        self._wait()
        return self._parts

    def _all_finished(self) -> bool:
        return all(part.status == "finished" for part in self._parts)

    def _wait(self) -> None:
        """Until all parts have ended, or one has failed and nothing more is heard."""
        monitor, asked, failed_at = self.work.monitor, False, None
        while any(part.status == "pending" for part in self._parts):
            time.sleep(POLL_SECONDS)
            self._hear()
            if self.client.status != "running":
                raise UserError("the scheduler of the cluster has ended; run again when it is up")
            if monitor.stop_requested and not asked:
                asked = True
                self.client.run(stop_team, self._id, wait=False, on_error="ignore")
            if any(part.status == "error" for part in self._parts) or self._lost():
                failed_at = failed_at or time.monotonic()
                if self._lost() or time.monotonic() - failed_at > LOST_SECONDS:
                    return
        self._hear()

    def _lost(self) -> set[str]:
        """Addresses of hosts that have gone."""
        return self.hosts.keys() - _joined(self.client).keys()

    def _hear(self) -> None:
        while True:
            try:
                kind, *values = self._heard.get_nowait()["told"]
            except Empty:
                return
            getattr(self.work.monitor, kind)(*values)

    def _outcome(self) -> Outcome | None:
        if self._all_finished():
            outcome = self._parts[0].result()
            if outcome is None:
                raise Interrupted
            return outcome
        errors = [part.exception() for part in self._parts if part.status == "error"]
        own = [error for error in errors if not isinstance(error, PeerEnded)]
        if self._lost():
            return None
        raise next(iter(own or errors))


_stopped: set[str] = set()  # teams that shall save a checkpoint,
_ended: set[str] = set()  # and that shall end at once


async def stop_team(team: str) -> None:
    """On each worker: have the ranks of `team` save a checkpoint and end."""
    _stopped.add(team)


async def end_team(team: str) -> None:
    """On each worker: kill the ranks of `team`."""
    _ended.add(team)


def find_addresses(num: int) -> list[str]:
    """On a worker: free addresses of its host, as the other hosts reach it."""
    worker = import_dask().get_worker()
    return free_addresses(num, worker.ip)


def run_part(team: str, given: bytes, place: tuple[Sequence[Sequence[str]], str, int]) -> Any:
    """On a worker: the Outcome of this host's ranks of a pickled (stage, work); None: stopped."""
    worker = import_dask().get_worker()
    stage, work = pickle.loads(given)

    def report(kind: str, *values: object) -> None:
        worker.log_event(team, {"told": [kind, *values]})

    def stop_requested() -> bool:
        if team in _ended:
            raise PeerEnded(f"another host of stage {work.stage} has ended")
        return team in _stopped

    variables = {"GLOO_SOCKET_IFNAME": interface_of(worker.ip)}
    environments = [variables | one for one in environments_of(*place)]
    try:
        return run_ranks(stage, here(work), environments, report, stop_requested)
    except Interrupted:
        return None
    except UserError as error:
        raise type(error)(f"{worker.name}: {error}") from None


def interface_of(address: str) -> str:
    """The network interface of this host that has an IP address: gloo asks for its name."""
    interfaces: Mapping[str, Any] = resolve_name("psutil:net_if_addrs")()
    return next(n for n, own in interfaces.items() if any(o.address == address for o in own))
