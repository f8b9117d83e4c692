"""Averages beside a training: of weights over its steps, of batch norms over a batch's parts."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        share = paddle.full([1], share)  # a number would be copied to the device for each of them
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
    """Batch-norm running means and variances as one float64 [n] on the device.

    Each part of a batch moves them from where the step found them, and the step leaves their mean
    over the parts. So it does not matter which process computes which part. They are followed only
    where `are_needed`; else n is 0.
    """

    def __init__(self, model: paddle.nn.Layer, are_needed: bool) -> None:
        kinds = paddle.nn.BatchNorm2D | paddle.nn.BatchNorm
        layers = [x for x in model.sublayers() if isinstance(x, kinds)] if are_needed else []
        self._tensors = [tensor for x in layers if x.training for tensor in (x._mean, x._variance)]

    @paddle.no_grad()
    def read(self) -> paddle.Tensor:
        """Current values, float64 [n]."""
        if not self._tensors:
            return paddle.zeros([0], "float64")
        joined = paddle.concat([tensor.flatten() for tensor in self._tensors])
        return joined.astype("float64")  # exact: a mean over parts rounds once

    @paddle.no_grad()
    def write(self, values: paddle.Tensor) -> None:
        """Set them to `values`, in the order of `read`."""
        if not self._tensors:
            return
        pieces = values.astype("float32").split([tensor.size for tensor in self._tensors])
        for tensor, piece in zip(self._tensors, pieces, strict=True):
            paddle.assign(piece.reshape(tensor.shape), output=tensor)
