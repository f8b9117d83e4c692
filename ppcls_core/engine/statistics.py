"""The running statistics of batch norms, where a batch is computed in parts."""

from __future__ import annotations

import numpy as np
import paddle


class RunningStatistics:
    """Those that training moves, as one vector float64 [n]; of a batch in one part none.

    Every part moves them from where the step found them, and the step leaves the mean of that. So
    it does not matter which process computes a part, nor how many it computes before.
    """

    def __init__(self, model: paddle.nn.Layer, parts: int) -> None:
        kinds = paddle.nn.BatchNorm2D | paddle.nn.BatchNorm
        layers = [x for x in model.sublayers() if isinstance(x, kinds)] if parts > 1 else []
        self._tensors = [tensor for x in layers if x.training for tensor in (x._mean, x._variance)]

    def read(self) -> np.ndarray:
        """Their values."""
        if not self._tensors:
            return np.zeros(0)
        joined = paddle.concat([tensor.flatten() for tensor in self._tensors])
        return joined.numpy().astype(np.float64)

    def write(self, values: np.ndarray) -> None:
        """Set them to `values`, in the order of `read`."""
        at = 0
        for tensor in self._tensors:
            tensor.set_value(values[at : at + tensor.size].astype(np.float32))
            at += tensor.size
