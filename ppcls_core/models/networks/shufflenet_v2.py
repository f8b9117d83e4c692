"""ShuffleNetV2: the network. Its variants are the rows of specs/shufflenet_v2.py."""

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import Activation, Network, PrivateConvBN, in_row, pool
from ppcls_core.models.specs.shufflenet_v2 import ShuffleNetV2Spec

_ConvBN = PrivateConvBN.with_settings(counts_group=True)


class ShuffleBlock(nn.Layer):
    """Half of the channels convolved, then shuffled with the other half.

    With stride 2, which the depthwise convolutions have, each half is made from all channels.
    `channels` are in and out, equal with stride 1; the 1x1 convolutions end in `activation`.
    """

    def __init__(self, channels: tuple[int, int], stride: int, activation: Activation) -> None:
        super().__init__()
        before, half = channels[0], channels[1] // 2
        names = ("_conv_pw", "_conv_dw", "_conv_linear")
        if stride == 2:
            self._conv_dw_1 = _ConvBN((before, before), 3, 2, groups=before, activation=None)
            self._conv_linear_1 = _ConvBN((before, half), 1, activation=activation)
            names = ("_conv_pw_2", "_conv_dw_2", "_conv_linear_2")
        before = before if stride == 2 else half
        pointwise = _ConvBN((before, half), 1, activation=activation)
        depthwise = _ConvBN((half, half), 3, stride, groups=half, activation=None)
        last = _ConvBN((half, half), 1, activation=activation)
        for name, conv in zip(names, (pointwise, depthwise, last), strict=True):
            self.add_sublayer(name, conv)
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H', W']."""
        *shortcut, pointwise, depthwise, last = self.children()
        one, other = (x, x) if shortcut else x.chunk(2, axis=1)
        one, other = in_row(shortcut, one), last(depthwise(pointwise(other)))
        return paddle.stack([one, other], axis=2).flatten(1, 2)  # channels alternate


class ShuffleNetV2(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc",)

    def __init__(self, spec: ShuffleNetV2Spec, num_classes: int) -> None:
        super().__init__()
        act = getattr(F, spec.activation)
        self._conv1 = _ConvBN((3, spec.stem_width), 3, stride=2, activation=act)
        blocks = [self.add_sublayer(name, block) for name, block in _blocks(spec, act)]
        self._last_conv = _ConvBN((spec.widths[-1], spec.feature_width), 1, activation=act)
        self.entry, self.trunk = [self._conv1, pool], [*blocks, self._last_conv]
        self._fc = nn.Linear(spec.feature_width, num_classes)


def _blocks(spec: ShuffleNetV2Spec, act: Activation) -> Iterator[tuple[str, ShuffleBlock]]:
    """(name, block) in order, named as in the published weights: the stem is stage 1 there."""
    before = spec.stem_width
    for stage, (width, depth) in enumerate(zip(spec.widths, spec.depths, strict=True), 2):
        for index in range(depth):
            stride = 1 if index else 2
            yield f"{stage}_{index + 1}", ShuffleBlock((before, width), stride, act)
            before = width
