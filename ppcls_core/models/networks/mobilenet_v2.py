"""MobileNetV2: the network. Its variants are the rows of specs/mobilenet_v2.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Network,
    Residual,
    cut_width,
    global_average,
    stage_outputs,
)
from ppcls_core.models.networks.layers import PrivateConvBN as ConvBN
from ppcls_core.models.specs.mobilenet_v2 import MobileNetV2Spec


class MobileNetV2(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: MobileNetV2Spec, num_classes: int) -> None:
        super().__init__()
        before = cut_width(spec.stages[-1].out, spec.scale)
        last = int(spec.feature_width * max(spec.scale, 1.0))
        self.conv1 = ConvBN((3, cut_width(spec.stem_width, spec.scale)), 3, 2, activation=F.relu6)
        self.blocks = [self.add_sublayer(name, block) for name, block in _blocks(spec)]
        self.conv9 = ConvBN((before, last), 1, activation=F.relu6)
        self.out = nn.Linear(last, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self.conv1(x), [*self.blocks, self.conv9])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *_, x = self.features(x).values()
        return self.out(global_average(x))


def _blocks(spec: MobileNetV2Spec) -> Iterator[tuple[str, Residual]]:
    """(name, block) in order, named as in the published weights: the stem is stage 1 there."""
    before = cut_width(spec.stem_width, spec.scale)
    for number, stage in enumerate(spec.stages, 2):
        after = cut_width(stage.out, spec.scale)
        for index in range(stage.depth):
            name = f"conv{number}_{index + 1}" if index else "_first_block"
            stride = 1 if index else stage.stride
            yield f"conv{number}.{name}", _block((before, after), stage.expansion, stride)
            before = after


def _block(channels: tuple[int, int], expansion: int, stride: int) -> Residual:
    before, after = channels
    width = before * expansion
    return Residual(
        ("_expand_conv", ConvBN((before, width), 1, activation=F.relu6)),
        ("_bottleneck_conv", ConvBN((width, width), 3, stride, groups=width, activation=F.relu6)),
        ("_linear_conv", ConvBN((width, after), 1, activation=None)),
        stride=stride,
        is_residual=stride == 1 and before == after,
    )
