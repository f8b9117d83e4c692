"""MobileNetV1: the network. Its variants are the rows of specs/mobilenet_v1.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal

from ppcls_core.models.networks import layers
from ppcls_core.models.networks.layers import (
    Network,
    Residual,
    cut_width,
    global_average,
    stage_outputs,
)
from ppcls_core.models.specs.mobilenet_v1 import MobileNetV1Spec


class _ConvBN(layers.ConvBN):
    """The shared block with its own start."""

    counts_group: ClassVar[bool] = True


class MobileNetV1(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("fc",)

    def __init__(self, spec: MobileNetV1Spec, num_classes: int) -> None:
        super().__init__()
        self.conv = _ConvBN((3, cut_width(spec.stem_width, spec.scale)), 3, stride=2)
        self.blocks = nn.Sequential(*_blocks(spec))
        self.fc = nn.Linear(
            cut_width(spec.blocks[-1].out, spec.scale),
            num_classes,
            weight_attr=ParamAttr(initializer=KaimingNormal()),
        )

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self.conv(x), self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *_, x = self.features(x).values()
        return self.fc(global_average(x))


def _blocks(spec: MobileNetV1Spec) -> Iterator[Residual]:
    before = cut_width(spec.stem_width, spec.scale)
    for row in spec.blocks:
        after = cut_width(row.out, spec.scale)
        depthwise = _ConvBN((before, before), 3, row.stride, groups=before)
        pointwise = _ConvBN((before, after), 1)
        yield Residual(
            ("depthwise_conv", depthwise),
            ("pointwise_conv", pointwise),
            stride=row.stride,
            is_residual=False,
        )
        before = after
