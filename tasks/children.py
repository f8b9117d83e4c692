"""Shards made in child processes, which share neither memory nor engines with this one.

Paddle's inference engine sets the number of threads of its process and so the bits of a later
training; a GPU each needs a process each. The parent alone writes what they make.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

import pyarrow as pa

from data_catalog.config import UserError
from tasks.shards import Advance, Process

Start = Callable[..., Process]  # (number of the child, *arguments), found by name in the child


@contextmanager
def children(num: int, start: Start, *arguments: object) -> Iterator[list[Process]]:
    """`num` processes, each of which makes the shards that its `start(number, *arguments)` makes.

    They end with the block, and with this process however that ends.
    """
    opened = [_Child(start, (number, *arguments)) for number in range(num)]
    try:
        yield list(opened)
    finally:
        for child in opened:
            child.close()


class _Child:
    """A `Process` that another process carries out."""

    def __init__(self, start: Start, arguments: tuple[object, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # Paddle and OpenMP do not survive a fork
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, start, arguments), daemon=True)
        self._process.start()
        other.close()  # or its end would never be noticed

    def __call__(self, rows: range, advance: Advance) -> dict[str, pa.Table]:
        try:
            self._pipe.send(rows)
            while True:
                answer = self._pipe.recv()
                if isinstance(answer, UserError):
                    raise answer
                if isinstance(answer, dict):
                    return answer
                for _ in range(answer):
                    advance()
        except (EOFError, OSError) as error:
            self._process.join()
            raise UserError(
                f"a worker process ended with {self._process.exitcode} (-9: killed, as for want "
                "of memory; else its error is printed above); run again: finished shards are kept"
            ) from error

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, start: Start, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    process: Process | None = None
    while True:
        try:
            rows = pipe.recv()
        except EOFError:
            return
        try:
            process = process or start(*arguments)
            pipe.send(process(rows, lambda: pipe.send(1)))
        except UserError as error:
            pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
