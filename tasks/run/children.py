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
from typing import Any

import pyarrow as pa

from data_catalog.base.config import UserError
from ppcls_core.runtime.shards import Advance
from ppcls_core.runtime.terminal import import_paddle

Make = Callable[[Any, Advance], dict[str, pa.Table]]  # of what a shard is made of, its tables
Start = Callable[..., Make]  # (number of the child, *arguments), found by name in the child


@contextmanager
def children(num: int, start: Start, *arguments: object) -> Iterator[list[Make]]:
    """`num` processes, each of which makes what its `start(number, *arguments)` makes.

    They end with the block, and with this process however that ends.
    """
    opened = [_Child(start, (number, *arguments)) for number in range(num)]
    try:
        yield list(opened)
    finally:
        for child in opened:
            child.close()


class _Child:
    """A `Make` that another process carries out."""

    def __init__(self, start: Start, arguments: tuple[object, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # Paddle and OpenMP do not survive a fork
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()  # or its end would never be noticed
        self._pipe.send((start, arguments))

    def __call__(self, task: Any, advance: Advance) -> dict[str, pa.Table]:
        try:
            self._pipe.send(task)
            while True:
                answer = self._pipe.recv()
                if isinstance(answer, UserError):
                    raise answer
                if isinstance(answer, dict):
                    return {name: pa.ipc.open_stream(t).read_all() for name, t in answer.items()}
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
        self._process.kill()  # SIGTERM makes Paddle print its stack
        self._process.join()


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_paddle()  # which prints lines unless it is asked so; the arguments may import it
    start: Start
    start, arguments = pipe.recv()
    make: Make | None = None
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            make = make or start(*arguments)
            tables = make(task, lambda: pipe.send(1))
            pipe.send({name: _packed(table) for name, table in tables.items()})
        except UserError as error:
            pipe.send(error)


def _packed(table: pa.Table) -> pa.Buffer:
    """In Arrow's stream format: pickling forgets which fields cannot be null."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
