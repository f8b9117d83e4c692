"""MobileNetV3: the network. Its variants are the rows of specs/mobilenet_v3.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models import layers
from ppcls_core.models.layers import Activation, linear_classifier
from ppcls_core.models.specs.mobilenet_v3 import InvertedResidual, MobileNetV3Spec

_ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "hardswish": F.hardswish}


class ConvBN(layers.ConvBN):
    """The shared block; the published training kept L2 decay off its batch norm."""

    decay_norm: ClassVar[bool] = False


class SqueezeExcite(nn.Layer):
    """Channels weighted by a gate in [0, 1] that sees their means (Hu et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels // 4, 1)
        self.conv2 = nn.Conv2D(channels // 4, channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        gate = self.conv2(F.relu(self.conv1(F.adaptive_avg_pool2d(x, 1))))
        # The paper's hard sigmoid is relu6(x + 3) / 6; PaddleClas's weights were trained with 0.2.
        return x * F.hardsigmoid(gate, slope=0.2, offset=0.5)


class InvertedResidualBlock(nn.Layer):
    """Expansion, depthwise convolution, gate, projection; added to its input where shapes allow.

    Args:
        channels: in, expanded, out, all after scaling.
        row: what else the block is.
    """

    def __init__(self, channels: tuple[int, int, int], row: InvertedResidual) -> None:
        super().__init__()
        before, expanded, after = channels
        act = _ACTIVATIONS[row.activation]
        self.expand_conv = ConvBN((before, expanded), 1, activation=act)
        self.bottleneck_conv = ConvBN(
            (expanded, expanded), row.kernel, row.stride, groups=expanded, activation=act
        )
        self.mid_se = SqueezeExcite(expanded) if row.squeeze_excite else None
        self.linear_conv = ConvBN((expanded, after), 1, activation=None)
        self.is_residual = row.stride == 1 and before == after

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        branch = self.bottleneck_conv(self.expand_conv(x))
        if self.mid_se is not None:
            branch = self.mid_se(branch)
        branch = self.linear_conv(branch)
        return x + branch if self.is_residual else branch


class MobileNetV3(nn.Layer):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifier = "fc"

    def __init__(self, spec: MobileNetV3Spec, num_classes: int) -> None:
        super().__init__()
        stem = _scaled(spec.stem_width, spec)
        before, last = _scaled(spec.blocks[-1].out, spec), _scaled(spec.last_width, spec)
        self.conv = ConvBN((3, stem), 3, stride=2, activation=F.hardswish)
        self.blocks = nn.Sequential(*_blocks(spec, stem))
        self.last_second_conv = ConvBN((before, last), 1, activation=F.hardswish)
        self.last_conv = nn.Conv2D(last, spec.feature_width, 1, bias_attr=False)
        self.dropout = nn.Dropout(spec.dropout, mode="downscale_in_infer")
        self.fc = linear_classifier(spec.feature_width, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.last_second_conv(self.blocks(self.conv(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        x = F.hardswish(self.last_conv(x)).flatten(1)
        return self.fc(self.dropout(x))


def _blocks(spec: MobileNetV3Spec, before: int) -> Iterator[InvertedResidualBlock]:
    for row in spec.blocks:
        after = _scaled(row.out, spec)
        yield InvertedResidualBlock((before, _scaled(row.expanded, spec), after), row)
        before = after


def _scaled(channels: int, spec: MobileNetV3Spec) -> int:
    """`channels` times the scale as the nearest multiple of 8, never more than 10 % below it."""
    wanted = channels * spec.scale
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
