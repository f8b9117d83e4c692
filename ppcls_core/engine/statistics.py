"""Running statistics of batch norms where a batch is computed in parts."""

from __future__ import annotations

import numpy as np
import paddle


class RunningStatistics:
    """Batch-norm running means and variances as one float64 [n]; empty when a batch is not split.

    Each part of a batch moves them from where the step found them, and the step leaves their mean
    over the parts. So it does not matter which process computes which part.
    """

    def __init__(self, model: paddle.nn.Layer, parts: int) -> None:
        kinds = paddle.nn.BatchNorm2D | paddle.nn.BatchNorm
        layers = [x for x in model.sublayers() if isinstance(x, kinds)] if parts > 1 else []
        self._tensors = [tensor for x in layers if x.training for tensor in (x._mean, x._variance)]

    def read(self) -> np.ndarray:
        """Current values, float64 [n]; n is 0 when a batch is not split."""
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
