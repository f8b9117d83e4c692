"""The inference engine in a process of its own, used through a pipe.

Paddle's predictor keeps Python's lock while it runs: in the server's own process no request could
be received, decoded or answered meanwhile, and /health would wait for a batch.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.config import UserError, parse
from ppcls_core.cli.paddle import start_paddle
from ppcls_core.inference.exported import Exported, Logits

STOP_SECONDS = 10
# Threads that wait for one another sleep, instead of keeping a core from the decoders.
ENVIRONMENT = {"KMP_BLOCKTIME": "0"}


@dataclass(frozen=True)
class Asked:
    """What the process is to run; `settings` are those of EngineOptions."""

    directory: Path
    settings: dict[str, Any]


@contextmanager
def engine(asked: Asked) -> Iterator[Logits]:
    """The model of an exported folder in a process that ends with this one, however that ends.

    Raises:
        UserError: the model cannot be loaded, or the process has ended by itself.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    env = {**ENVIRONMENT, **os.environ}
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
    atexit.register(process.kill)  # a stop does not wait until it has loaded
    with Connection(ours.detach()) as pipe:
        try:
            _exchange(pipe, process, asked)
            yield lambda pixels: _exchange(pipe, process, pixels)
        finally:
            pipe.close()  # upon which it ends
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            atexit.unregister(process.kill)


def _exchange(pipe: Connection, process: subprocess.Popen[bytes], message: object) -> np.ndarray:
    try:
        pipe.send(message)
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        status = process.wait()
        raise UserError(
            f"the inference process has ended with {status}; -9 is likely for want of memory: "
            "lower max_batch, or see its messages above, and start again"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def main() -> None:
    """The process: a folder to load, then batches, until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to both processes
        signal.signal(number, signal.SIG_IGN)
    run: Callable[[Any], Any] = _load
    with Connection(int(sys.argv[1])) as pipe, suppress(EOFError, OSError):
        while True:
            message = pipe.recv()
            try:
                answer = run(message)
            except Exception as error:  # noqa: BLE001 - raised again at the other end
                answer = error
            if callable(answer):  # loaded
                run, answer = answer, None
            pipe.send(answer)
    os._exit(0)  # Paddle takes half a second of computing to end, for which a stop would wait


def _load(asked: Asked) -> Logits:
    start_paddle(asked.settings["threads"])
    import paddle

    from ppcls_core.inference.predictor import EngineOptions

    paddle.disable_signal_handler()  # its own would print a trace at a signal
    options = parse(EngineOptions, asked.settings, "ppcls serve")
    return Exported(asked.directory).on_engine(options)


if __name__ == "__main__":
    # Under its real name, which is that of the classes that come through the pipe.
    from ppcls_core.serving.engine import main as run_main

    run_main()
