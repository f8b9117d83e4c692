"""Blocks that more than one family is built from. Tensors are float [N, C, H, W]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Uniform
from paddle.regularizer import L2Decay

Activation = Callable[[paddle.Tensor], paddle.Tensor]


class BatchNorm(nn.BatchNorm2D):
    """Paddle's, without its warning at every step that training tracks the statistics."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.batch_norm(
            x,
            self._mean,
            self._variance,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
        )


class ConvBN(nn.Layer):
    """Convolution without bias, batch norm, then `activation` (None: the identity).

    The padding is (kernel - 1) / 2, so that stride 1 keeps the size and stride 2 gives half of it,
    rounded up. Weights start from Paddle's default, normal with std sqrt(2 / (C_in * kernel^2)),
    as PaddleClas's did: it counts all input channels even where the convolution is grouped.

    A family whose published weights have other names, or whose recipe keeps L2 decay off the batch
    norm, says so in a subclass.
    """

    names: ClassVar[tuple[str, str]] = ("conv", "bn")
    decay_norm: ClassVar[bool] = True

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        conv = nn.Conv2D(
            *channels,
            kernel,
            stride=stride,
            padding=(kernel - 1) // 2,
            groups=groups,
            bias_attr=False,
        )
        # A regularizer of its own takes a parameter out of the optimizer's weight decay.
        attr = None if self.decay_norm else ParamAttr(regularizer=L2Decay(0.0))
        norm = BatchNorm(channels[1], weight_attr=attr, bias_attr=attr)
        self.add_sublayer(self.names[0], conv)
        self.add_sublayer(self.names[1], norm)
        self.activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        conv, norm = self.children()
        x = norm(conv(x))
        return x if self.activation is None else self.activation(x)


def global_average(x: paddle.Tensor) -> paddle.Tensor:
    """Mean over all places: [N, C, H, W] to [N, C]."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def linear_classifier(features: int, num_classes: int) -> nn.Linear:
    """[N, features] to logits [N, num_classes]; weights uniform in +-1/sqrt(features), bias 0."""
    bound = 1.0 / math.sqrt(features)
    return nn.Linear(
        features, num_classes, weight_attr=ParamAttr(initializer=Uniform(-bound, bound))
    )
