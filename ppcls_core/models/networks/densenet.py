"""DenseNet and Dual Path Networks. Their variants are the rows of specs/densenet.py."""

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    BatchNorm,
    Network,
    NormReluConv,
    PrivateConvBN,
    linear,
    pool,
    uniform,
)
from ppcls_core.models.specs.densenet import DenseNetSpec, DPNSpec


class DenseLayer(nn.Layer):
    """Appends `growth` channels, made from all those before, to its input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.bn_ac_func1 = NormReluConv((before, 4 * growth), 1)
        self.bn_ac_func2 = NormReluConv((4 * growth, growth), 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, before, H, W] to [N, before + growth, H, W]."""
        return paddle.concat([x, self.bn_ac_func2(self.bn_ac_func1(x))], axis=1)


class Transition(nn.Layer):
    """From one stage to the next: half the channels, half the resolution, rounded down."""

    stride: ClassVar[int] = 2

    def __init__(self, before: int) -> None:
        super().__init__()
        self.conv_ac_func = NormReluConv((before, before // 2), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, before, H, W] to [N, before / 2, H / 2, W / 2]."""
        return F.avg_pool2d(self.conv_ac_func(x), 2, 2)


class DenseNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: DenseNetSpec, num_classes: int) -> None:
        super().__init__()
        self.conv1_func = PrivateConvBN((3, spec.stem_width), 7, stride=2)
        before, growth = spec.stem_width, spec.growth
        trunk: list[nn.Layer] = []
        for stage, depth in enumerate(spec.depths, 2):  # the published names count the stem
            if stage > 2:
                transition = Transition(before)
                trunk.append(self.add_sublayer(f"tr_conv{stage - 1}_blk", transition))
                before //= 2
            widths = range(before, before + depth * growth, growth)
            dense = [(f"conv{stage}_{i}", DenseLayer(w, growth)) for i, w in enumerate(widths, 1)]
            trunk.append(self.add_sublayer(f"db_conv_{stage}", nn.Sequential(*dense)))
            before += depth * growth
        self.batch_norm = BatchNorm(before)
        self.entry, self.trunk = [self.conv1_func, pool], [*trunk, self.batch_norm, F.relu]
        self.out = linear(before, num_classes)


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
        """[N, before, H, W] to [N, C, H', W'], C with what the block appends."""
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
        trunk: list[nn.Layer] = []
        for stage, (depth, growth) in enumerate(zip(spec.depths, spec.growths, strict=True)):
            for index in range(depth):
                block = DualPathBlock(spec, before, stage, projected=index == 0)
                trunk.append(self.add_sublayer(f"dpn{len(trunk) + 1}", block))
                before = (spec.width << stage) + (index + 3) * growth
        self.conv5_x_x_bn = BatchNorm(before)
        self.entry, self.trunk = [self.conv1_x_1_func, pool], [*trunk, self.conv5_x_x_bn, F.relu]
        self.out = nn.Linear(before, num_classes, weight_attr=uniform(0.01))
