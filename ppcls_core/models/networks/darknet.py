"""DarkNet-53: the network. Its variant is the row of specs/darknet.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
from paddle import nn

from ppcls_core.models.networks import layers
from ppcls_core.models.networks.layers import (
    Network,
    Residual,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.darknet import DarkNetSpec


class _ConvBN(layers.ConvBN):
    """The shared block. Published with ReLU, where the paper has leaky ReLU."""

    names: ClassVar[tuple[str, str]] = ("_conv", "_bn")


class DarkNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_out",)

    def __init__(self, spec: DarkNetSpec, num_classes: int) -> None:
        super().__init__()
        self._conv1 = _ConvBN((3, spec.width), 3)
        self.blocks = [self.add_sublayer(name, block) for name, block in _blocks(spec)]
        self._out = linear(spec.width << len(spec.depths), num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self._conv1(x), self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._out(global_average(self.features(x)["stage5"]))


def _blocks(spec: DarkNetSpec) -> Iterator[tuple[str, nn.Layer]]:
    """The stages in one row, under the names of the published weights."""
    for stage, depth in enumerate(spec.depths):
        width = spec.width << stage
        name = f"_downsample_{stage - 1}" if stage else "_conv2"
        yield name, _ConvBN((width, 2 * width), 3, stride=2)
        for index in range(1, depth + 1):
            squeeze = ("_conv1", _ConvBN((2 * width, width), 1))
            expand = ("_conv2", _ConvBN((width, 2 * width), 3))
            yield f"_basic_block_{stage}{index}", Residual(squeeze, expand)
