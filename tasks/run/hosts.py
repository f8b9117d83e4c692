"""The processes of a cluster: the scheduler on the head, the workers on every host that joins.

    python -m tasks.run.hosts ADDRESS     # the scheduler; `ssld up --share ADDRESS` starts it
    ssld worker --join ADDRESS            # `join`

Hosts share the store under one path, run the same code and the same versions: results depend on
nothing else, so that it does not matter who makes a shard. A worker looks before it joins.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from uuid import uuid4

from data_catalog.base.config import UserError
from data_catalog.base.files import LockHeld, locked, write_bytes
from data_catalog.images.columns import MOVED
from ppcls_core.runtime.cluster import (
    CPU,
    GPU,
    MAX_DEATHS,
    PORT,
    address,
    connected,
    import_dask,
    security,
)
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.monitor import StopFlag, stop_on_signals
from ppcls_core.runtime.paddle import import_paddle
from ppcls_core.runtime.terminal import run_app
from ppcls_core.runtime.threads import max_threads
from ppcls_core.runtime.versions import installed_versions
from tasks.run.source import source_hash
from tasks.run.store import Store

MODULES = ("paddle", "cv2", "faiss", "numpy", "pyarrow")  # whose versions change results
CODE = ("tasks.stages.dedup", "tasks.stages.label", "tasks.stages.training")
REJOIN_SECONDS, VISIBLE_SECONDS, END_SECONDS = 5.0, 2.0, 20.0
_ON_LOOPBACK = "127.0.0.1:0"  # for Dask's web server, which has no page left


def _folder() -> Path:
    """The part of the store by which hosts find out whether they share it."""
    return Store.default().root / "cluster"


def _set_dask() -> None:
    import_dask()
    resolve_name("dask.config:set")(
        {
            "distributed.scheduler.allowed-failures": MAX_DEATHS - 1,
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
            # What nobody looks at costs a tenth of a core otherwise.
            "distributed.admin.system-monitor.gil.enabled": False,
            "distributed.admin.system-monitor.interval": "5s",
            "distributed.admin.tick.interval": "500ms",
            "distributed.worker.profile.enabled": False,
            "distributed.worker.memory.monitor-interval": "1s",
            # Networks and loaders share this host's cores among themselves.
            "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": str(max_threads())},
        }
    )


def serve(host: str) -> None:
    """Run the scheduler on the address `host`, which may have a port, until SIGTERM. Raises
    UserError: no certificate, or no place to bind to, or a store without locks."""
    _set_dask()
    name, _, port = host.partition(":")
    with _held(), stop_on_signals() as stop:
        asyncio.run(_serve(name, int(port or PORT), stop))


async def _serve(host: str, port: int, stop: StopFlag) -> None:
    scheduler = import_dask().Scheduler(
        host=host,
        port=port,
        protocol="tls",
        security=security(),
        dashboard=False,
        dashboard_address=_ON_LOOPBACK,
    )
    async with scheduler:
        while not stop.is_set:
            await asyncio.sleep(0.2)


@contextmanager
def _held() -> Any:
    """Hold the lock that no worker may get."""
    try:
        with locked(_folder() / "held"):
            yield
    except LockHeld as holder:
        raise UserError(f"process {holder} is the scheduler of this store already") from None


def join(host: str, roots: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Work for the scheduler on `host` until SIGINT or SIGTERM; where it ends, for the next one.

    `roots`: folder of images on the head -> the same on this host. Raises UserError: no scheduler
    answers at first, or this host does not share its store, code and versions.
    """
    _set_dask()
    os.environ[MOVED] = json.dumps(dict(roots))
    check_shared(host)
    import_paddle()  # before signals mean something else here
    with stop_on_signals() as stop:
        while not stop.is_set:
            asyncio.run(_work(host, stop, say))
            while not stop.is_set and not _may_join(host, say):
                time.sleep(REJOIN_SECONDS)


def _may_join(host: str, say: Callable[[str], None]) -> bool:
    try:
        check_shared(host)
    except UserError as error:
        say(f"not joined: {error}")
        return False
    return True


async def _work(host: str, stop: StopFlag, say: Callable[[str], None]) -> None:
    """Workers, one for shards of each kind that this host can make, until the scheduler ends."""
    dask, where = import_dask(), address(host)
    own = resolve_name("distributed.utils:get_ip")(where.partition("//")[2].rpartition(":")[0])
    name = f"{os.uname().nodename} ({own})"
    kinds = {CPU: name, **({GPU: f"{name} GPU"} if num_gpus() else {})}
    nannies = [
        dask.Nanny(
            where,
            nthreads=1,
            name=label,
            resources={kind: 1},
            memory_limit=0,
            silence_logs=logging.ERROR,
            host=own,
            protocol="tls",
            security=security(),
            dashboard_address=_ON_LOOPBACK,
        )
        for kind, label in kinds.items()
    ]
    try:
        await asyncio.gather(*nannies)
        say(f"joined {where} as {', '.join(kinds.values())}")
        ends = [asyncio.ensure_future(nanny.finished()) for nanny in nannies]
        while not stop.is_set and not any(end.done() for end in ends):
            await asyncio.sleep(0.2)
        if not stop.is_set:
            say("the scheduler has ended or cannot be reached: joins again when it is back")
    except (OSError, RuntimeError, TimeoutError) as error:
        say(f"not joined: {error.__cause__ or error}")
    finally:
        await asyncio.gather(*(n.close(timeout=END_SECONDS) for n in nannies))


def check_shared(host: str) -> None:
    """Raise UserError unless this host and the scheduler's share one store, whose locks exclude,
    the same code and versions."""
    mine = describe_host()
    with connected(host) as client:
        theirs = client.run_on_scheduler(describe_host)
        for what, value in theirs.items():
            if mine[what] != value and what != "versions":
                raise UserError(f"{what}: got {mine[what]}, the head has {value}; {_REMEDY[what]}")
        for name in mine["versions"].keys() & theirs["versions"].keys():
            own, other = mine["versions"][name], theirs["versions"][name]
            if own != other:
                raise UserError(f"{name}: got {own}, the head has {other}; {_REMEDY['versions']}")
        _check_folder(client)


_REMEDY = {
    "store": "share it under one path: set SSLD_HOME there and here to the same folder",
    "code": "use the same commit on every host",
    "versions": "install the same lock file on every host",
}


def describe_host() -> dict[str, Any]:
    """{store, code, versions} of the host that this runs on."""
    return {
        "store": str(Store.default().root),
        "code": " ".join(source_hash(module)[:12] for module in CODE),
        "versions": installed_versions(MODULES),
    }


def read_sign(name: str) -> str | None:
    """The content of a file that another host may have left; None if it is not seen here."""
    path = _folder() / name
    return path.read_text() if path.exists() else None


def leave_sign(name: str, text: str) -> None:
    """Write a file for another host, as results are written."""
    write_bytes(_folder() / name, text.encode())


def _check_folder(client: Any) -> None:
    """A file renamed into place on one host must be there on the other, which has looked for it
    before, and the lock that the scheduler holds must not be had here."""
    folder, remedy = _folder(), "see docs/machines.md on what the shared folder must do"
    sides: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
        ("the head does not see", leave_sign, lambda *a: client.run_on_scheduler(read_sign, *a)),
        ("this host does not see", lambda *a: client.run_on_scheduler(leave_sign, *a), read_sign),
    ]
    for who, leave, read in sides:
        name, text = f"sign-{uuid4().hex}", uuid4().hex
        try:
            read(name)
            leave(name, text)
            end = time.monotonic() + VISIBLE_SECONDS
            while read(name) != text:
                if time.monotonic() > end:
                    raise UserError(
                        f"{folder}: {who} within {VISIBLE_SECONDS:g} s what the other has written: "
                        f"it is not one folder, or its cache is too old; {remedy}"
                    )
                time.sleep(0.1)
        finally:
            (folder / name).unlink(missing_ok=True)
            client.run_on_scheduler(remove_sign, name)
    try:
        with locked(folder / "held"):
            pass
    except LockHeld:
        return
    raise UserError(f"{folder}: a lock that the head holds is not seen here; {remedy}")


def remove_sign(name: str) -> None:
    """Remove such a file."""
    (_folder() / name).unlink(missing_ok=True)


if __name__ == "__main__":
    run_app(lambda: serve(*sys.argv[1:]))
