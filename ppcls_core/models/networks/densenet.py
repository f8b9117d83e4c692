"""DenseNet: the network. Its variants are the rows of specs/densenet.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    BatchNorm,
    Network,
    NormReluConv,
    PrivateConvBN,
    global_average,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.densenet import DenseNetSpec


class DenseLayer(nn.Layer):
    """Appends `growth` channels, made from all those before, to its input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.bn_ac_func1 = NormReluConv((before, 4 * growth), 1)
        self.bn_ac_func2 = NormReluConv((4 * growth, growth), 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.concat([x, self.bn_ac_func2(self.bn_ac_func1(x))], axis=1)


class DenseBlock(nn.Sequential):
    """The dense layers of one stage."""

    stride: ClassVar[int] = 1


class Transition(nn.Layer):
    """From one stage to the next: half the channels, half the resolution, rounded down."""

    stride: ClassVar[int] = 2

    def __init__(self, before: int) -> None:
        super().__init__()
        self.conv_ac_func = NormReluConv((before, before // 2), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.avg_pool2d(self.conv_ac_func(x), 2, 2)


class DenseNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: DenseNetSpec, num_classes: int) -> None:
        super().__init__()
        self.conv1_func = PrivateConvBN((3, spec.stem_width), 7, stride=2)
        before, growth = spec.stem_width, spec.growth
        self.blocks: list[nn.Layer] = []
        for stage, depth in enumerate(spec.depths, 2):  # the published names count the stem
            if stage > 2:
                transition = Transition(before)
                self.blocks.append(self.add_sublayer(f"tr_conv{stage - 1}_blk", transition))
                before //= 2
            widths = range(before, before + depth * growth, growth)
            dense = [(f"conv{stage}_{i}", DenseLayer(w, growth)) for i, w in enumerate(widths, 1)]
            self.blocks.append(self.add_sublayer(f"db_conv_{stage}", DenseBlock(*dense)))
            before += depth * growth
        self.batch_norm = BatchNorm(before)
        self.out = linear(before, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        stages = stage_outputs(F.max_pool2d(self.conv1_func(x), 3, 2, padding=1), self.blocks)
        return {**stages, "stage4": F.relu(self.batch_norm(stages["stage4"]))}

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(global_average(self.features(x)["stage4"]))
