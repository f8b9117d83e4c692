"""Dual Path Networks: the network. Its variants are the rows of specs/dpn.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Uniform

from ppcls_core.models.networks.layers import (
    BatchNorm,
    Network,
    NormReluConv,
    PrivateConvBN,
    global_average,
    stage_outputs,
)
from ppcls_core.models.specs.dpn import DPNSpec


class DualPathBlock(nn.Layer):
    """1x1, grouped 3x3, 1x1 convolutions; the map is the residual path, then the dense one.

    Args:
        before: channels of the input.
        stage: 0 to 3.
        projected: a convolution makes both paths anew, as at the start of each stage; else they
            are the input.
    """

    def __init__(self, spec: DPNSpec, before: int, stage: int, projected: bool) -> None:
        super().__init__()
        self.width, growth = spec.width << stage, spec.growths[stage]
        self.stride = 2 if projected and stage > 0 else 1
        middle = (spec.group_width << stage) * spec.groups
        self.c1x1_w_func = (
            NormReluConv((before, self.width + 2 * growth), 1, self.stride) if projected else None
        )
        self.c1x1_a_func = NormReluConv((before, middle), 1)
        self.c3x3_b_func = NormReluConv((middle, middle), 3, self.stride, spec.groups)
        self.c1x1_c_func = NormReluConv((middle, self.width + growth), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        paths = x if self.c1x1_w_func is None else self.c1x1_w_func(x)
        x = self.c1x1_c_func(self.c3x3_b_func(self.c1x1_a_func(x)))
        width = self.width
        residual = paths[:, :width] + x[:, :width]
        return paddle.concat([residual, paths[:, width:], x[:, width:]], axis=1)


class DPN(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: DPNSpec, num_classes: int) -> None:
        super().__init__()
        self.conv1_x_1_func = PrivateConvBN((3, spec.stem_width), spec.stem_kernel, stride=2)
        before = spec.stem_width
        self.blocks: list[nn.Layer] = []
        for stage, (depth, growth) in enumerate(zip(spec.depths, spec.growths, strict=True)):
            for index in range(depth):
                block = DualPathBlock(spec, before, stage, projected=index == 0)
                self.blocks.append(self.add_sublayer(f"dpn{len(self.blocks) + 1}", block))
                before = (spec.width << stage) + (index + 3) * growth
        self.conv5_x_x_bn = BatchNorm(before)
        attr = ParamAttr(initializer=Uniform(-0.01, 0.01))
        self.out = nn.Linear(before, num_classes, weight_attr=attr)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        stages = stage_outputs(F.max_pool2d(self.conv1_x_1_func(x), 3, 2, padding=1), self.blocks)
        return {**stages, "stage4": F.relu(self.conv5_x_x_bn(stages["stage4"]))}

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(global_average(self.features(x)["stage4"]))
