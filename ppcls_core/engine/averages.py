"""Averages beside a training: of weights over its steps, of batch norms over a batch's parts."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle


class Average:
    """Average of a model's parameters and statistics, from now on; float32 `values` by name."""

    def __init__(self, model: paddle.nn.Layer, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.values = _copies(model)

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model by 1 - decay; by more in the first steps, as in EfficientNet."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self._model.state_dict().items():
            self.values[name].lerp_(value, share)

    def enter_model(self) -> None:
        """Give the model the average for good."""
        _fill(self._model, self.values)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """For the block the model has the average, afterwards what it had before."""
        own = _copies(self._model)  # training goes on from these
        self.enter_model()
        try:
            yield
        finally:
            _fill(self._model, own)


@paddle.no_grad()
def _copies(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _fill(model: paddle.nn.Layer, values: dict[str, paddle.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        tensor.set_value(values[name])


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
        return joined.numpy().astype(np.float64)  # exact: a mean over parts rounds once

    def write(self, values: np.ndarray) -> None:
        """Set them to `values`, in the order of `read`."""
        at = 0
        for tensor in self._tensors:
            tensor.set_value(values[at : at + tensor.size].astype(np.float32))
            at += tensor.size
