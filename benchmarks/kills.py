"""Does a pipeline that is killed end as one that is left alone? SIGKILL at random moments.

    PYTHONPATH=. python benchmarks/kills.py --kills 160
    PYTHONPATH=. python benchmarks/kills.py --kills 40 --deployment

A small recipe, whose student learns from stored labels, is run once without a kill. Then a run in a
fresh store is killed: itself, a process of its stages, or Prefect's server; a random one of those
that are there, at a random moment of one of the next stages. The same command goes on, and is
killed again, until the recipe is done; the next store begins, until the number of kills is made.
In one store no stage is aimed at twice, and among the next stages the one that had the fewest kills
is: so each gets its share, also the last.

After each kill: whatever had been finished (stages, shards) is never written again; what was killed
leaves no process; whatever is said has no traceback. At each end: the digests are those of the run
that was left alone, every file in the store belongs to a finished stage and is whole, no lock is
held, and the next run finds all of it done.

With --pause nothing is killed, but stopped for so long; then the run itself must go on.
With --folder the uninterrupted run is kept there, for another call with another --seed.
"""

import argparse
import atexit
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol

import psutil

from data_catalog.base.files import locked, read_json
from flows import services
from tasks.dag import STAGES
from tasks.run.store import MANIFEST, Result, Store
from tests.conftest import PROJECT, TINY
from tests.support.processes import (
    is_running,
    kill_with_environment,
    wait_until,
    with_environment,
)
from tests.support.user import User

MODULES = ("flows.ssld", "flows.commands", "tasks.stages.report")
SETTINGS = (
    "shard_size=8",
    "run_time.checkpoint_seconds=0.1",
    "label.views=2",
    "distill.epochs=6",
    "distill.teacher=replay",
    "distill.teacher_batch_norm=running",
    "finetune.teacher=replay",
    "finetune.teacher_batch_norm=running",
)
BEGINNING = "(start)"  # in the place of a stage: before the first
NEXT = 3  # stages of which one is struck, so that a recipe meets several kills
START_SECONDS, END_SECONDS, ORPHAN_SECONDS = 6.0, 300.0, 30.0
# How a process is told from others: a word of its command line.
KINDS = {
    "temporary_server": "server",
    "open_engines": "engine",
    "open_stage": "stage's process",
    "_workspace_supervisor": "flow run",  # until it replaces itself with prefect.engine
    "prefect.engine": "flow run",
    "flow-run": "flow run",
    "worker": "worker",
    "uvicorn": "server",
    "prefect server": "server",
}
# A line that Prefect's own processes log, not of a run, and those that belong to it. They tell with
# tracebacks that the server has gone, and go on.
OF_PREFECT = re.compile(r"^[\d:.]+ \| [A-Z]+ +\| .*\n(?:(?!\d\d:\d\d:\d\d).*\n)*", re.M)
OURS = re.compile(rf'File "{re.escape(str(PROJECT))}/(?!\.venv)')
# Forked from a server that has imported Paddle and Prefect but used neither: no 7 s a run.
processes = multiprocessing.get_context("forkserver")


class Run(Protocol):
    """A run of the recipe, going on in the background; it survives the death of some kinds."""

    survives: tuple[str, ...]

    def victims(self) -> dict[str, list[int]]:
        """Kind -> processes that are there; empty once it has ended."""
        ...

    def revive(self) -> None:
        """Start again what was killed and does not come back by itself."""
        ...

    def wait(self) -> str:
        """How it has ended: "done", "failed", "killed", or "hangs"."""
        ...

    def said(self) -> str:
        """All that it has printed."""
        ...

    def left(self) -> dict[str, list[int]]:
        """Kind -> processes that are there though it has ended."""
        ...


def kinds_of(pids: list[int]) -> dict[str, list[int]]:
    """The processes whose kind is known, by kind."""
    found: dict[str, list[int]] = {}
    for pid in pids:
        with suppress(psutil.Error):
            words = " ".join(psutil.Process(pid).cmdline())
            kind = next((kind for word, kind in KINDS.items() if word in words), None)
            if kind:
                found.setdefault(kind, []).append(pid)
    return found


def run_command(home: Path, log: Path) -> None:
    """`ssld run`, in a forked process."""
    os.setsid()
    os.environ["SSLD_HOME"] = str(home)
    with log.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    sys.argv = ["ssld", "run", str(TINY), *options]
    try:
        resolve_name("flows.cli:main")()
    finally:  # as an interpreter ends; multiprocessing would leave out the second
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]


class LocalRun:
    """`ssld run`, with a temporary server of its own."""

    survives: tuple[str, ...] = ("server",)

    def __init__(self, home: Path) -> None:
        self._home, self._log = home, home.parent / f"{home.name}.log"
        self._log.write_bytes(b"")
        self._process = processes.Process(target=run_command, args=(home, self._log))
        self._process.start()

    def victims(self) -> dict[str, list[int]]:
        pid = self._process.pid
        if pid is None or not self._process.is_alive():
            return {}
        with suppress(psutil.Error):
            children = psutil.Process(pid).children(recursive=True)
            return {"run": [pid], **kinds_of([child.pid for child in children])}
        return {}

    def revive(self) -> None: ...

    def wait(self) -> str:
        self._process.join(END_SECONDS)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            return "hangs"
        return "done" if status == 0 else "killed" if status < 0 else "failed"

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def left(self) -> dict[str, list[int]]:
        return kinds_of(with_environment(str(self._home)))


class DeployedRun:
    """A run of the deployment; services that are gone are started again."""

    survives: tuple[str, ...] = ("server",)

    def __init__(self, port: int) -> None:
        self._port = port
        self._id = resolve_name("prefect.deployments:run_deployment")(
            "ssld/full",
            parameters={"recipe": str(TINY), "settings": list(SETTINGS)},
            timeout=0,
        ).id

    def victims(self) -> dict[str, list[int]]:
        found = self._members()
        return {} if "flow run" not in found and self._state().is_final() else found

    def _members(self) -> dict[str, list[int]]:
        every = (services.workers()["gpu"], services.server(self._port))
        return kinds_of([pid for service in every for pid in service.members()])

    def revive(self) -> None:
        services.start_server(self._port, "127.0.0.1", None, say)
        if services.workers()["gpu"].pid() is None:
            services.up(self._port, say)

    def _state(self) -> Any:
        with resolve_name("prefect.client.orchestration:get_client")(sync_client=True) as client:
            return client.read_flow_run(self._id).state

    def wait(self) -> str:
        if not wait_until(lambda: self._state().is_final(), END_SECONDS):
            return "hangs"
        return "done" if self._state().is_completed() else "failed"

    def said(self) -> str:
        worker = services.workers()["gpu"]
        text = worker.log.read_text(errors="replace")
        os.truncate(worker.log, 0)  # it is open for appending
        return OF_PREFECT.sub(lambda found: found[0] if OURS.search(found[0]) else "", text)

    def left(self) -> dict[str, list[int]]:
        return {k: p for k, p in self._members().items() if k not in ("worker", "server")}


@dataclass
class Watch:
    """A store, of which nothing that is finished may be written again."""

    store: Store
    problems: list[str] = field(default_factory=list)
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def look(self, where: str) -> None:
        """Compare what was finished when this was called last, and see what is now."""
        for path, before in self._seen.items():
            if path.exists() and _identity(path) != before:
                self.problems.append(f"{where}: {path} was finished, and was made again")
            elif not path.exists() and path.name == MANIFEST:
                self.problems.append(f"{where}: {path} was removed")
        self._seen |= {path: _identity(path) for path in self._finished()}

    def _finished(self) -> Iterator[Path]:
        for result in self.store.results():
            yield result.directory / MANIFEST
            yield from map(result.path, result.files)
        for record in self.store.root.rglob("shard-*.json"):
            tables = [record.parent / name for name in read_json(record) or ()]
            if all(table.exists() for table in tables):
                yield from (record, *tables)

    def running(self, since: float) -> list[str]:
        """Stages that have begun after that time and are not done."""
        locks = [path for path in self.store.root.glob("locks/*") if path.stat().st_mtime > since]
        begun = {path.name.partition("-")[0] for path in locks}
        return [name for name in STAGES if name in begun and not self.is_done(name)]

    def is_done(self, stage: str) -> bool:
        """Whether it has a result."""
        return any(self.store.root.glob(f"{stage}/*/{MANIFEST}"))

    def end(self, where: str, digests: dict[str, str]) -> None:
        """Examine the store of a recipe that is done."""
        results = list(self.store.results())
        found = digests_of(results)
        wrong = [name for name in digests if found.get(name) != digests[name]]
        self.problems += [f"{where}: another digest: {name}" for name in wrong]
        known = {r.path(name) for r in results for name in (*r.files, MANIFEST)}
        for result in results:
            self.problems += [f"{where}: {result.stage}: {d}" for d in result.damages(deep=True)]
        for path in filter(Path.is_file, self.store.root.glob("*/*/**/*")):
            if path not in known and path.relative_to(self.store.root).parts[0] in STAGES:
                self.problems.append(f"{where}: left over: {path}")
        for path in self.store.root.rglob(".tmp-*"):
            self.problems.append(f"{where}: half-written: {path}")
        for path in self.store.root.glob("locks/*"):
            with locked(path):  # raises LockHeld
                pass


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def digests_of(results: list[Result]) -> dict[str, str]:
    """Digest of each stage but the report, which holds times."""
    return {result.stage: result.digest for result in results if result.stage != "report"}


@dataclass
class Killer:
    """Kills runs of one store until it is done, or the kills are made."""

    start: Callable[[], Run]
    watch: Watch
    seconds: dict[str, float]  # of each stage
    tally: Counter[tuple[str, str, str]]  # (what, in which stage, how it went on)
    pause: float | None  # seconds of SIGSTOP, in the place of SIGKILL
    hits: Counter[str]  # kills in each stage, in all stores
    _aimed: set[str] = field(default_factory=set)  # stages, in this one

    def kill(self, rng: random.Random, where: str, most: int) -> int:
        """Start a run and kill parts of it, at most so many, until it ends; how many."""
        begun, struck = time.time(), list[tuple[str, str]]()
        run = self.start()
        while not struck or self.pause is not None or struck[-1][0] in run.survives:
            if len(struck) == most or not (hit := self._strike(run, begun, rng)):
                break
            struck.append(hit)
            run.revive()
            say(f"{where}: {hit[0]} in {hit[1]}")
        how = run.wait()
        said = run.said()
        problems = {
            "a traceback": "Traceback" in said,
            how: how == "hangs" or (self.pause is not None and how != "done"),
            f"left: {run.left()}": not wait_until(lambda: not run.left(), ORPHAN_SECONDS),
        }
        for problem in (problem for problem, is_there in problems.items() if is_there):
            say(f"{where}: {problem}")
            self.watch.problems.append(f"{where}: {struck}: {problem}\n{said}")
        for pid in (pid for pids in run.left().values() for pid in pids):
            os.kill(pid, signal.SIGKILL)
        self.watch.look(where)
        say(f"{where}: {how}: {_last(said)}")
        for number, hit in enumerate(struck, 1):
            went_on = number < len(struck) or how == "done"
            self.tally[*hit, "the run itself" if went_on else "the next run"] += 1
        return len(struck)

    def _strike(self, run: Run, begun: float, rng: random.Random) -> tuple[str, str] | None:
        """(kind of the process that was killed, in which stage); None when the run has ended."""
        if (stage := self._aim(rng)) is None:
            return None
        part, draw = rng.random(), rng.random()

        def is_there() -> bool:
            is_over = self.watch.is_done(stage) or not run.victims()
            return is_over or stage in self.watch.running(begun)

        if stage != BEGINNING:
            wait_until(is_there, END_SECONDS)
        time.sleep(part * self.seconds.get(stage, START_SECONDS))
        found = run.victims()
        if not found:
            return None
        kind = sorted(found)[int(draw * len(found))]
        pid = found[kind][int(part * len(found[kind]))]
        meanwhile = self.watch.running(begun) or [BEGINNING]
        self.hits.update(meanwhile)
        with suppress(ProcessLookupError):
            if self.pause is None:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not is_running(pid), END_SECONDS)
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.pause)
                os.kill(pid, signal.SIGCONT)
        return kind, "+".join(meanwhile)

    def _aim(self, rng: random.Random) -> str | None:
        """The stage to strike in; None when all that are left have been aimed at."""
        left = [name for name in STAGES if not self.watch.is_done(name)]
        fresh = [name for name in [BEGINNING, *left] if name not in self._aimed][:NEXT]
        stage = min(fresh, key=lambda name: (self.hits[name], rng.random()), default=None)
        self._aimed |= {stage} if stage else set()
        return stage


def say(text: str) -> None:
    """Print it with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:160]


def uninterrupted(user: User) -> tuple[dict[str, str], dict[str, float]]:
    """(digest, seconds) of each stage of a run that nobody kills."""
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    if not any(user.store.glob(f"report/*/{MANIFEST}")):
        user.types("ssld", "run", str(TINY), *options)
    results = list(Store(user.store).results())
    return digests_of(results), {result.stage: result.record["seconds"] for result in results}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the run that is left alone")
    parser.add_argument("--pause", type=float, help="seconds of SIGSTOP, in the place of SIGKILL")
    parser.add_argument("--deployment", action="store_true", help="kill services and their runs")
    arguments = parser.parse_args()
    # Asked to end it tells what it has found so far.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tally: Counter[tuple[str, str, str]] = Counter()
    problems: list[str] = []
    with suppress(SystemExit), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        user = User((arguments.folder or root / "whole").absolute())
        user.folder.mkdir(parents=True, exist_ok=True)
        wanted = uninterrupted(user)
        mine = User(root)
        os.environ.clear()
        os.environ.update(mine.environment)
        services.prepare()
        harm = deployed if arguments.deployment else local
        try:
            harm(arguments, mine, wanted, (tally, problems))
        finally:
            kill_with_environment(str(root))
    print(f"\n{'killed':<18}{'in stage':<34}{'went on by':<16}times")
    for (kind, stage, how), number in sorted(tally.items()):
        print(f"{kind:<18}{stage:<34}{how:<16}{number}")
    print(f"{sum(tally.values())} kills; {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


Wanted = tuple[dict[str, str], dict[str, float]]
Found = tuple[Counter[tuple[str, str, str]], list[str]]


def local(arguments: argparse.Namespace, user: User, wanted: Wanted, found: Found) -> None:
    """Kill runs of `ssld run`."""
    processes.set_forkserver_preload([*MODULES])
    number = life = 0
    hits: Counter[str] = Counter()
    while number < arguments.kills:
        home = user.folder / f"life{life}"
        home.mkdir()
        watch = Watch(Store(home / "store"), found[1])
        start = partial(LocalRun, home)
        killer = Killer(start, watch, wanted[1], found[0], arguments.pause, hits)
        while number < arguments.kills:
            where = f"seed {arguments.seed}, store {life}, kill {number}"
            if not (made := killer.kill(random.Random(where), where, arguments.kills - number)):
                break
            number += made
        finish(start, watch, f"seed {arguments.seed}, store {life}", wanted[0])
        shutil.rmtree(home)
        life += 1


def finish(start: Callable[[], Run], watch: Watch, where: str, digests: dict[str, str]) -> None:
    """Run to the end without a kill, run once more, and examine what is left."""
    for _ in range(2):
        run = start()
        if (how := run.wait()) != "done":
            watch.problems.append(f"{where}: the last run: {how}\n{run.said()}")
        watch.look(where)
    watch.end(where, digests)


def deployed(arguments: argparse.Namespace, user: User, wanted: Wanted, found: Found) -> None:
    """Kill the worker, the server and the runs of the deployment."""
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{user.port}/api"
    services.up(user.port, print)
    start = partial(DeployedRun, user.port)
    number = life = 0
    hits: Counter[str] = Counter()
    while number < arguments.kills:
        watch = Watch(Store(user.store), found[1])
        killer = Killer(start, watch, wanted[1], found[0], arguments.pause, hits)
        while number < arguments.kills:
            where = f"deployment, seed {arguments.seed}, store {life}, kill {number}"
            if not (made := killer.kill(random.Random(where), where, arguments.kills - number)):
                break
            number += made
        finish(start, watch, f"deployment, seed {arguments.seed}, store {life}", wanted[0])
        shutil.rmtree(user.store)
        life += 1
    services.down(print)
    if left := with_environment(f"@{services.home()}"):
        found[1].append(f"processes are left: {kinds_of(left)}")


if __name__ == "__main__":
    sys.exit(main())
