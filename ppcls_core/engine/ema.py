"""Exponential moving average of a model's weights, which is then judged and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle


class Average:
    """The average of `model`'s parameters and running statistics, starting from what they are.

    `values` are float32 tensors by name in the state dict.
    """

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
        own = _copies(self._model)
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
