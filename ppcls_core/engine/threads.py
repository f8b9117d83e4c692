"""Threads of a training on the CPU, by the size of its steps.

Paddle's threads spin while they wait for each other: beside another busy program a small step on
two threads takes four times as long as on one, and on idle cores no less (benchmarks/threads.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import paddle

from ppcls_core.models.complexity import count_operations
from ppcls_core.runtime.threads import max_threads

OPERATIONS = 6e9  # of a step for each thread; as `count_operations`, backward twice as many


def threads_of_step(
    model: paddle.nn.Layer, teachers: Sequence[paddle.nn.Layer], size: int, num_images: int
) -> int:
    """The number of threads for steps on `num_images` images of `size` pixels, at most
    `max_threads`; the bits of a training depend on it."""
    if paddle.device.get_device() != "cpu":
        return max_threads()
    forward = sum(count_operations(teacher, size) for teacher in teachers)
    operations = num_images * (3 * count_operations(model, size) + forward)
    return max(1, min(max_threads(), int(operations // OPERATIONS)))


@contextmanager
def on_threads(num: int) -> Iterator[None]:
    """Paddle computes on `num` threads meanwhile, and afterwards on `max_threads` again."""
    set_threads = paddle.base.core.set_num_threads  # pyright: ignore[reportAttributeAccessIssue]
    set_threads(num)
    try:
        yield
    finally:
        set_threads(max_threads())
