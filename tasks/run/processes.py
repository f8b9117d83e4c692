"""A training stage in several processes, one a device, which Paddle's launcher starts.

    this process --- launcher --+-- worker 0 (tasks/run/worker.py)
                                +-- worker 1 ...

The standard input of launcher and workers is the other end of a socket of this process. Through it
the workers tell what happens, in packets of JSON; when this process dies they read its end, and
die too.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.config import UserError
from data_catalog.base.files import write_json
from ppcls_core.engine.config import TrainConfig
from ppcls_core.runtime.monitor import Interrupted, Monitor
from tasks.recipe import PROJECT, Recipe
from tasks.run.store import Store

if TYPE_CHECKING:
    from tasks.run.stage import Outcome, Work

POLL_SECONDS = 0.2
MAX_PACKET = 1 << 20
# What ends a worker, by the name under which it tells it.
ERRORS: dict[str, type[BaseException]] = {
    kind.__name__: kind for kind in (UserError, OSError, RuntimeError, Interrupted)
}


def trainings(recipe: Recipe) -> dict[str, TrainConfig]:
    """The settings of each stage that trains; a teacher with given weights does not."""
    students = ("baseline", "distill", "finetune", "fix")
    found: dict[str, TrainConfig] = {name: getattr(recipe, name) for name in students}
    teacher = recipe.teacher
    return found if teacher.weights or not teacher.train else found | {"teacher": teacher.train}


def check_devices(recipe: Recipe) -> None:
    """Raise UserError if there are fewer devices than asked for, or they cannot share a batch."""
    devices = recipe.run_time.devices
    if devices == 1:
        return
    from paddle.device.cuda import device_count

    if 0 < device_count() < devices:
        raise UserError(
            f"run_time.devices: got {devices}, but there are only {device_count()} GPUs; take at "
            "most that number"
        )
    for name, config in trainings(recipe).items():
        parts = devices * config.accumulate
        if config.batch_size % parts:
            raise UserError(
                f"{name}: {devices} devices with accumulate {config.accumulate} cannot share a "
                f"batch_size of {config.batch_size} equally; take a multiple of {parts}"
            )


def run_in_processes(work: Work, store: Store) -> Outcome:
    """The outcome of the stage of `work`, run in as many processes as its recipe has devices.

    Raises:
        UserError, OSError, Interrupted: as the stage itself.
        RuntimeError: a defect; the traceback of the process.
    """
    from tasks.run.stage import Outcome

    logs = work.path("log")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(mode=0o700)  # the launcher writes its environment there, tokens and all
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outcome, error = None, None
    with theirs:
        launcher = _launch(work, store, theirs.fileno())
    try:
        for kind, *values in _packets(ours, launcher, work.monitor):
            if kind in ERRORS:
                error = error or ERRORS[kind](*values)  # the first is the cause of the others
            elif kind == "outcome":
                outcome = Outcome(**values[0])
            else:
                getattr(work.monitor, kind)(*values)
    finally:
        ours.close()  # which ends whatever still runs
        launcher.wait()
        last_words = _last_words(logs)
        shutil.rmtree(logs)
    if outcome is not None:
        return outcome
    if work.monitor.stop_requested:
        raise Interrupted
    raise error or RuntimeError(f"the processes of {work.stage} just ended\n{last_words}")


def _launch(work: Work, store: Store, standard_input: int) -> subprocess.Popen[bytes]:
    from paddle.device.cuda import device_count, empty_cache

    if device_count():
        empty_cache()  # the first worker needs the memory that this process's stages have had
    write_json(work.path("order.json"), _order(work, store))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "paddle.distributed.launch"),
            *("--nproc_per_node", str(work.recipe.run_time.devices)),
            *("--log_dir", str(work.path("log"))),
            *(sys.executable, "-m", "tasks.run.worker", str(work.path("order.json"))),
        ],
        env=_environment(work.recipe.run_time.devices),
        stdin=standard_input,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for this process, which passes it on
    )


def _order(work: Work, store: Store) -> dict[str, Any]:
    """What a worker needs to make the Work again, with its share of the loader's threads."""
    run_time = work.recipe.run_time
    workers = max(1, run_time.workers // run_time.devices)
    own = {"run_time": run_time.model_copy(update={"workers": workers})}
    return {
        "stage": work.stage,
        "recipe": work.recipe.model_copy(update=own).model_dump(mode="json"),
        "directory": str(work.directory),
        "key": work.key,
        "store": str(store.root),
        "inputs": {name: result.key for name, result in work.inputs.items()},
    }


def _environment(devices: int) -> dict[str, str]:
    """That of this process, its CPU threads shared out."""
    threads = int(os.environ["OMP_NUM_THREADS"]) // devices  # set by ppcls_core
    path = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, threads)),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def _packets(
    ours: socket.socket, launcher: subprocess.Popen[bytes], monitor: Monitor
) -> Iterator[list[Any]]:
    """What the workers tell until they have ended; a request to stop is passed on to them."""
    ours.settimeout(POLL_SECONDS)
    is_told = False
    while True:
        if monitor.stop_requested and not is_told:
            launcher.terminate()
            is_told = True
        try:
            packet = ours.recv(MAX_PACKET)
        except TimeoutError:
            if launcher.poll() is not None:
                return  # killed; its workers are not, yet
            continue
        if not packet:
            return
        yield json.loads(packet)


def _last_words(logs: Path) -> str:
    """The end of each worker's output."""
    texts = (path.read_text(errors="replace") for path in sorted(logs.glob("workerlog.*")))
    return "\n".join(text[-2000:] for text in texts)
