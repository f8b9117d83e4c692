"""ResNeSt: the network. Its variants are the rows of specs/resnest.py."""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppcls_core.models.networks.layers import (
    BatchNorm,
    Network,
    PrivateConvBN,
    Step,
    global_average,
    in_row,
    linear,
    stage_outputs,
)
from ppcls_core.models.specs.resnest import ResNeStSpec


class _ConvBN(PrivateConvBN):
    """The shared block with no L2 decay of its batch norm."""

    decay_norm: ClassVar[bool] = False


class SplitAttention(nn.Layer):
    """A 3x3 convolution to `radix` splits, added with weights that come from means of their sum.

    The weights of a channel's splits add up to 1; a single split has a gate between 0 and 1.

    Args:
        channels: of input and output [N, channels, H, W].
        radix: number of splits.
    """

    def __init__(self, channels: int, radix: int) -> None:
        super().__init__()
        squeezed = max(32, channels * radix // 4)
        self.conv1 = _ConvBN((channels, channels * radix), 3, groups=radix)
        self.conv2 = _ConvBN((channels, squeezed), 1)
        self.conv3 = nn.Conv2D(squeezed, channels * radix, 1, bias_attr=False)
        self.shape = [-1, radix, channels]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv1(x)
        splits = x.split(self.shape[1], axis=1)
        mean = F.adaptive_avg_pool2d(paddle.add_n(splits), 1)
        scores = self.conv3(self.conv2(mean)).reshape(self.shape)  # [N, radix, channels]
        weights = F.softmax(scores, axis=1) if len(splits) > 1 else F.sigmoid(scores)
        gates = weights.reshape([-1, x.shape[1], 1, 1]).split(len(splits), axis=1)
        return paddle.add_n(list(map(paddle.multiply, splits, gates)))


class _Block(nn.Layer):
    """Convolutions of 1x1, split attention and 1x1, and the shortcut, added.

    Args:
        spec: of the network.
        before: channels of the input.
        width: channels inside; four times as many come out.
        stride: 2 where a block halves the size.
        projects: whether the shortcut is a 1x1 convolution.
    """

    def __init__(
        self, spec: ResNeStSpec, before: int, width: int, stride: int, projects: bool
    ) -> None:
        super().__init__()
        after = 4 * width
        self.stride = stride
        self.conv1 = _ConvBN((before, width), 1)
        self.conv2 = SplitAttention(width, spec.radix)
        self.conv3 = _ConvBN((width, after), 1, activation=None)
        self.branch: list[Step] = [self.conv1, self.conv2, self.conv3]
        self.shortcut: list[Step] = []
        if stride == 2:
            place = 1 if spec.averages_first else 2
            self.branch.insert(place, nn.AvgPool2D(3, 2, padding=1))
            self.shortcut.append(nn.AvgPool2D(2, 2, ceil_mode=True))
        if projects:
            attr = ParamAttr(regularizer=L2Decay(0.0))  # as in _ConvBN
            self.conv4 = nn.Conv2D(before, after, 1, bias_attr=False)
            self._batch_norm = BatchNorm(after, weight_attr=attr, bias_attr=attr)
            self.shortcut += [self.conv4, self._batch_norm]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(in_row(self.branch, x) + in_row(self.shortcut, x))


class ResNeSt(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: ResNeStSpec, num_classes: int) -> None:
        super().__init__()
        stem, before = spec.stem_width, 2 * spec.stem_width
        self.stem = nn.Sequential(
            ("conv1", _ConvBN((3, stem), 3, stride=2)),
            ("conv2", _ConvBN((stem, stem), 3)),
            ("conv3", _ConvBN((stem, before), 3)),
        )
        self.blocks: list[_Block] = []
        for stage, depth in enumerate(spec.depths):
            name, width = f"layer{stage + 1}", spec.width << stage
            layer = self.add_sublayer(name, nn.Sequential())
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                block = _Block(spec, before, width, stride, projects=index == 0)
                layer.add_sublayer(f"{name}_bottleneck_{index}", block)
                self.blocks.append(block)
                before = 4 * width
        self.out = linear(before, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1)
        return stage_outputs(x, self.blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(global_average(self.features(x)["stage4"]))
