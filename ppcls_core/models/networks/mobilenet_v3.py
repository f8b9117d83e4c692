"""MobileNetV3: the network. Its variants are the rows of specs/mobilenet_v3.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks import layers
from ppcls_core.models.networks.layers import (
    Activation,
    ConvSqueezeExcite,
    Network,
    Residual,
    scale_learning_rate,
    scaled_width,
    stage_outputs,
)
from ppcls_core.models.specs.mobilenet_v3 import InvertedResidual, MobileNetV3Spec

_ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "hardswish": F.hardswish}


class _ConvBN(layers.ConvBN):
    """The shared block; the published training kept L2 decay off its batch norm."""

    decay_norm: ClassVar[bool] = False


class MobileNetV3(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("fc",)

    def __init__(self, spec: MobileNetV3Spec, num_classes: int) -> None:
        super().__init__()
        stem = _scaled(spec.stem_width, spec)
        before, last = _scaled(spec.blocks[-1].out, spec), _scaled(spec.last_width, spec)
        self.conv = _ConvBN((3, stem), 3, stride=2, activation=F.hardswish)
        self.blocks = nn.Sequential(*_blocks(spec, stem))
        self.last_second_conv = _ConvBN((before, last), 1, activation=F.hardswish)
        self.last_conv = nn.Conv2D(last, spec.feature_width, 1, bias_attr=False)
        self.dropout = nn.Dropout(spec.dropout, mode="downscale_in_infer")
        self.fc = nn.Linear(spec.feature_width, num_classes)
        self._scale_learning_rates(spec)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return stage_outputs(self.conv(x), [*self.blocks, self.last_second_conv])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *_, x = self.features(x).values()
        x = F.adaptive_avg_pool2d(x, 1)
        x = F.hardswish(self.last_conv(x)).flatten(1)
        return self.fc(self.dropout(x))

    def _scale_learning_rates(self, spec: MobileNetV3Spec) -> None:
        """Scale those of the convolutions; batch norms and the head after pooling keep theirs."""
        fifth = max(1, len(spec.blocks) // 5)
        groups = [0, *(min(index // fifth, 4) for index in range(len(spec.blocks))), 4]
        parts = [self.conv, *self.blocks, self.last_second_conv]
        for group, part in zip(groups, parts, strict=True):
            for layer in part.sublayers():
                if isinstance(layer, nn.Conv2D):
                    scale_learning_rate(layer, spec.lr_mult_list[group])


def _blocks(spec: MobileNetV3Spec, before: int) -> Iterator[Residual]:
    for row in spec.blocks:
        after = _scaled(row.out, spec)
        yield Residual(
            *_layers((before, _scaled(row.expanded, spec), after), row),
            stride=row.stride,
            is_residual=row.stride == 1 and before == after,
        )
        before = after


def _layers(
    channels: tuple[int, int, int], row: InvertedResidual
) -> Iterator[tuple[str, nn.Layer]]:
    """Expansion, depthwise convolution, gate, projection; `channels` in, expanded, out."""
    before, width, after = channels
    act = _ACTIVATIONS[row.activation]
    yield "expand_conv", _ConvBN((before, width), 1, activation=act)
    yield "bottleneck_conv", _ConvBN((width, width), row.kernel, row.stride, width, act)
    if row.squeeze_excite:
        yield "mid_se", ConvSqueezeExcite(width, width // 4, F.relu, _hardsigmoid)
    yield "linear_conv", _ConvBN((width, after), 1, activation=None)


def _hardsigmoid(x: paddle.Tensor) -> paddle.Tensor:
    """The paper's is relu6(x + 3) / 6; PaddleClas's weights were trained with slope 0.2."""
    return F.hardsigmoid(x, slope=0.2, offset=0.5)


def _scaled(channels: int, spec: MobileNetV3Spec) -> int:
    return scaled_width(channels, spec.scale)
