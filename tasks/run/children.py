"""Shards made in child processes, which share neither memory nor engines with this one.

Paddle's inference engine sets the number of threads of its process and so the bits of a later
training; a GPU each needs a process each. The parent alone writes what they make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa

from ppcls_core.runtime.processes import Child, Parent
from ppcls_core.runtime.shards import Advance

Make = Callable[[Any, Advance], dict[str, pa.Table]]  # of what a shard is made of, its tables
Start = Callable[..., Make]  # (number of the child, *arguments), found by name in the child


@contextmanager
def children(num: int, start: Start, *arguments: object) -> Iterator[list[Make]]:
    """`num` processes, each of which makes what its `start(number, *arguments)` makes.

    They end with the block, and with this process however that ends.
    """
    with ExitStack() as stack:
        yield [
            _maker(stack.enter_context(Child(f"{__name__}:open_maker", (start, n, *arguments))))
            for n in range(num)
        ]


def _maker(child: Child) -> Make:
    def make(task: Any, advance: Advance) -> dict[str, pa.Table]:
        packed = child(task, advance)
        return {name: pa.ipc.open_stream(table).read_all() for name, table in packed.items()}

    return make


def open_maker(
    start: Start, number: int, *arguments: object
) -> Callable[[Any, Parent], dict[str, pa.Buffer]]:
    """The child's function: it makes the tables of a shard, packed, and reports once an item."""
    make = start(number, *arguments)

    def answer(task: Any, parent: Parent) -> dict[str, pa.Buffer]:
        return {name: _packed(table) for name, table in make(task, parent.report).items()}

    return answer


def _packed(table: pa.Table) -> pa.Buffer:
    """The table in Arrow's stream format: pickling forgets which fields cannot be null."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
