"""A training stage in several processes of one machine, one a device.

    this process --+-- process 0 (tasks/run/worker.py), which reports its progress
                   +-- process 1 ...

The processes find each other by the variables that Paddle's launcher sets; this process takes the
launcher's place, so that it knows what each of them has died of.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from data_catalog.base.config import UserError
from ppcls_core.engine.config import TrainConfig
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor
from ppcls_core.runtime.processes import Child, gather
from tasks.recipe import Recipe

if TYPE_CHECKING:
    from tasks.run.stage import Outcome, Work
_CUDA = "paddle.device.cuda"  # imports Paddle


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
    device_count = resolve_name(f"{_CUDA}:device_count")
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


def run_in_processes(work: Work) -> Outcome:
    """The outcome of the stage of `work`, run in as many processes as its recipe has devices.

    Raises:
        UserError, OSError, Interrupted: as the stage itself, or a process was killed.
        Exception: a defect, with the traceback of the process.
    """
    monitor, own = work.monitor, _share(work)
    logs = work.path("log")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(mode=0o700)

    def report(kind: str, *values: object) -> None:
        getattr(monitor, kind)(*values)

    try:
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    Child(
                        "tasks.run.worker:open_stage",
                        (own,),
                        name=f"process {rank} of stage {work.stage}",
                        remedy="run again: it goes on from its checkpoint",
                        environment=variables,
                        log=logs / f"{rank}.log",
                    )
                )
                for rank, variables in enumerate(_environments(work.recipe.run_time.devices))
            ]
            outcome, *_ = gather(children, None, report, lambda: monitor.stop_requested)
    except UserError:
        if monitor.stop_requested:  # a process that was killed with this one by who stops it
            raise Interrupted from None
        raise
    finally:
        shutil.rmtree(logs)
    return outcome


def _share(work: Work) -> Work:
    """`work` as each process gets it: with its share of the loader's threads, no monitor."""
    run_time = work.recipe.run_time
    workers = max(1, run_time.workers // run_time.devices)
    own = {"run_time": run_time.model_copy(update={"workers": workers})}
    return replace(work, recipe=work.recipe.model_copy(update=own), monitor=SilentMonitor())


def _environments(devices: int) -> list[dict[str, str]]:
    """The variables of each process, as `paddle.distributed.launch` sets them."""
    device_count, empty_cache = map(resolve_name, (f"{_CUDA}:device_count", f"{_CUDA}:empty_cache"))
    on_gpu = device_count() > 0
    if on_gpu:
        empty_cache()  # the first process needs the memory that this one's stages have had
    threads = max(1, int(os.environ["OMP_NUM_THREADS"]) // devices)  # set by ppcls_core
    master, *endpoints = _free_addresses(devices + 1)
    common = {
        "OMP_NUM_THREADS": str(threads),
        "PADDLE_MASTER": master,
        "PADDLE_TRAINERS_NUM": str(devices),
        "PADDLE_GLOBAL_SIZE": str(devices),
        "PADDLE_LOCAL_SIZE": str(devices),
        "PADDLE_NNODES": "1",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
    }
    return [
        {
            **common,
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
            **({"FLAGS_selected_gpus": str(rank)} if on_gpu else {"PADDLE_DISTRI_BACKEND": "gloo"}),
        }
        for rank, endpoint in enumerate(endpoints)
    ]


def _free_addresses(num: int) -> list[str]:
    """Addresses of ports of this machine that nobody listens on at the moment."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in bound]
