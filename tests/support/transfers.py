"""Counts what on a GPU would be a transfer between host and device, for which the host waits."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
import pytest

READS = ("numpy", "item", "tolist", "set_value", "__float__", "__int__", "__bool__", "__array__")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often tensors were made of the host's values, read by it or set, while in the block."""
    counts, depth = Counter[str](), [0]

    def counting(name, function):
        def call(*args, **kwargs):
            counts[name] += not depth[0]  # `item` calls `numpy`, which is one transfer
            depth[0] += 1
            try:
                return function(*args, **kwargs)
            finally:
                depth[0] -= 1

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner in (paddle, paddle.tensor.creation):
            patch.setattr(owner, "to_tensor", counting("to_tensor", owner.to_tensor))
        for name in READS:
            patch.setattr(paddle.Tensor, name, counting(name, getattr(paddle.Tensor, name)))
        yield counts
