"""ResNet_vd: the network. Its variants are the rows of specs/resnet_vd.py."""

from __future__ import annotations

from collections.abc import Iterator

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.layers import ConvBN, global_average, linear_classifier
from ppcls_core.models.specs.resnet_vd import ResNetVdSpec


class ResidualBlock(nn.Layer):
    """relu(branch(x) + shortcut(x)), the branch being 3x3, 3x3 or 1x1, 3x3, 1x1 convolutions.

    Args:
        channels: in, of the 3x3 convolutions, out.
        stride: of the (first) 3x3 convolution.
        project: the shortcut has a 1x1 convolution; else it is the identity.
        bottleneck: which of the two branches.
    """

    def __init__(
        self, channels: tuple[int, int, int], stride: int, project: bool, bottleneck: bool
    ) -> None:
        super().__init__()
        before, width, after = channels
        if bottleneck:
            self.conv0 = ConvBN((before, width), 1)
            self.conv1 = ConvBN((width, width), 3, stride)
            self.conv2 = ConvBN((width, after), 1, activation=None)
        else:
            self.conv0 = ConvBN((before, width), 3, stride)
            self.conv1 = ConvBN((width, after), 3, activation=None)
        self.short = ConvBN((before, after), 1, activation=None) if project else None
        self.bottleneck = bottleneck
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        branch = self.conv1(self.conv0(x))
        if self.bottleneck:
            branch = self.conv2(branch)
        return F.relu(branch + self.shortcut(x))

    def shortcut(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.short is None:
            return x
        if self.stride == 2:  # ResNet-D: average, where a strided 1x1 would skip 3 of 4 places
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True)
        return self.short(x)


class ResNetVd(nn.Layer):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifier = "fc"

    def __init__(self, spec: ResNetVdSpec, num_classes: int) -> None:
        super().__init__()
        width = spec.width
        features = width * 8 * _expansion(spec)
        self.stem = nn.Sequential(
            ConvBN((3, width // 2), 3, stride=2),
            ConvBN((width // 2, width // 2), 3),
            ConvBN((width // 2, width), 3),
        )
        self.blocks = nn.Sequential(*_blocks(spec))
        self.fc = linear_classifier(features, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1)
        return self.fc(global_average(self.blocks(x)))


def _expansion(spec: ResNetVdSpec) -> int:
    return 4 if spec.bottleneck else 1


def _blocks(spec: ResNetVdSpec) -> Iterator[ResidualBlock]:
    """The four stages' blocks in one row, as the published weights number them.

    Every stage's first block projects its shortcut, even ResNet18_vd's first, which need not.
    """
    before = spec.width
    for stage, depth in enumerate(spec.depths):
        width = spec.width << stage
        after = width * _expansion(spec)
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            yield ResidualBlock((before, width, after), stride, index == 0, spec.bottleneck)
            before = after
