"""Networks without batch norm: AlexNet, VGG, SqueezeNet and GoogLeNet.

Their variants are the rows of specs/plain.py.
"""

import itertools
import math
from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import Network, Step, global_average, uniform
from ppcls_core.models.specs.plain import (
    AlexNetSpec,
    GoogLeNetSpec,
    Inception,
    SqueezeNetSpec,
    VGGSpec,
)


class AlexNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 47, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc8",)

    def __init__(self, spec: AlexNetSpec, num_classes: int) -> None:
        super().__init__()
        one, two, three, four, five = spec.widths
        self._conv1 = nn.Sequential(("_conv", _alexnet_conv((3, one), 11, stride=4)))
        self._conv2 = nn.Sequential(("_conv", _alexnet_conv((one, two), 5)))
        self._conv3 = _alexnet_conv((two, three), 3)
        self._conv4 = _alexnet_conv((three, four), 3)
        self._conv5 = nn.Sequential(("_conv", _alexnet_conv((four, five), 3)))
        features = five * 6 * 6
        attr = uniform(1 / math.sqrt(features))  # of all three, though the last two see fewer
        self._fc6 = nn.Linear(features, spec.hidden, attr, attr)
        self._fc7 = nn.Linear(spec.hidden, spec.hidden, attr, attr)
        self._fc8 = nn.Linear(spec.hidden, num_classes, attr, attr)
        self.drop = nn.Dropout(0.5, mode="downscale_in_infer")
        halve = nn.MaxPool2D(3, 2)
        last = [self._conv3, F.relu, self._conv4, F.relu, self._conv5, F.relu]
        self.entry, self.trunk = [self._conv1], [F.relu, halve, self._conv2, F.relu, halve, *last]
        # Averages nothing at 224 px, where the map is 6x6; PaddleClas refuses other sizes.
        flat = [halve, nn.AdaptiveAvgPool2D(6), nn.Flatten()]
        self.neck = [*flat, self.drop, self._fc6, F.relu, self.drop, self._fc7, F.relu]


def _alexnet_conv(channels: tuple[int, int], kernel: int, stride: int = 1) -> nn.Conv2D:
    """With bias; padded to keep the size, the 11x11 one (stride 4) by 2."""
    attr = uniform(1 / math.sqrt(channels[0] * kernel**2))
    padding = min(kernel // 2, 2)
    return nn.Conv2D(
        *channels, kernel, stride=stride, padding=padding, weight_attr=attr, bias_attr=attr
    )


class VGG(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("fc3",)

    def __init__(self, spec: VGGSpec, num_classes: int) -> None:
        super().__init__()
        halve, trunk = nn.MaxPool2D(2, 2), list[Step]()
        for name, stage in _vgg_stages(spec):
            trunk += [self.add_sublayer(name, stage), halve]
        self.entry, self.trunk = (), trunk[:-1]
        self.fc1 = nn.Linear(8 * spec.width * 7 * 7, spec.hidden)
        self.fc2 = nn.Linear(spec.hidden, spec.hidden)
        self.fc3 = nn.Linear(spec.hidden, num_classes)
        self.drop = nn.Dropout(0.5, mode="downscale_in_infer")
        # Averages nothing at 224 px, where the map is 7x7; PaddleClas refuses other sizes.
        flat = [halve, nn.AdaptiveAvgPool2D(7), nn.Flatten()]
        self.neck = [*flat, self.fc1, F.relu, self.drop, self.fc2, F.relu, self.drop]


def _vgg_stages(spec: VGGSpec) -> Iterator[tuple[str, nn.Sequential]]:
    before = 3
    for stage, depth in enumerate(spec.depths):
        after = spec.width << min(stage, 3)
        layers: list[tuple[str, nn.Layer]] = []
        for index in range(1, depth + 1):
            conv = nn.Conv2D(before, after, 3, padding=1, bias_attr=False)
            layers += [(f"conv{index}", conv), (f"relu{index}", nn.ReLU())]
            before = after
        yield f"conv_block_{stage + 1}", nn.Sequential(*layers)


class _Fire(nn.Layer):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones to four times as many each."""

    def __init__(self, before: int, squeezed: int) -> None:
        super().__init__()
        self._conv = _conv_relu((before, squeezed), 1)
        self._conv_path1 = _conv_relu((squeezed, 4 * squeezed), 1)
        self._conv_path2 = _conv_relu((squeezed, 4 * squeezed), 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv(x)
        return paddle.concat([self._conv_path1(x), self._conv_path2(x)], axis=1)


class SqueezeNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too.

    The classifier is a 1x1 convolution, whose positive parts are averaged: no logit is negative.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("_conv9",)

    def __init__(self, spec: SqueezeNetSpec, num_classes: int) -> None:
        super().__init__()
        kernel, before = spec.stem_kernel, spec.stem_width
        self._conv = nn.Conv2D(3, before, kernel, stride=2, padding=1 if kernel == 3 else 0)
        trunk: list[Step] = [F.relu]
        numbers = itertools.count(1)
        for stage in spec.squeezed:
            trunk.append(nn.MaxPool2D(3, 2))
            for squeezed in stage:
                fire = _Fire(before, squeezed)
                trunk.append(self.add_sublayer(f"_conv{next(numbers)}", fire))
                before = 8 * squeezed
        self.entry, self.trunk = [self._conv], trunk
        self._drop = nn.Dropout(0.5, mode="downscale_in_infer")
        self._conv9 = nn.Conv2D(before, num_classes, 1)

    def _head(self, x: paddle.Tensor) -> paddle.Tensor:
        return global_average(F.relu(self._conv9(self._drop(x))))


def _conv_relu(channels: tuple[int, int], kernel: int) -> nn.Sequential:
    conv = nn.Conv2D(*channels, kernel, padding=kernel // 2)
    return nn.Sequential(("_conv", conv), ("relu", nn.ReLU()))


_INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class _InceptionBlock(nn.Layer):
    """Convolutions of three sizes and a max pooling side by side."""

    def __init__(self, before: int, row: Inception) -> None:
        super().__init__()
        self._conv1 = _googlenet_conv((before, row.one), 1)
        self._conv3r = _googlenet_conv((before, row.three_reduced), 1)
        self._conv3 = _googlenet_conv((row.three_reduced, row.three), 3)
        self._conv5r = _googlenet_conv((before, row.five_reduced), 1)
        self._conv5 = _googlenet_conv((row.five_reduced, row.five), 5)
        self._convprj = _googlenet_conv((before, row.pooled), 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # As published: no ReLU after the reductions, where the paper has one.
        three, five = self._conv3(self._conv3r(x)), self._conv5(self._conv5r(x))
        pooled = self._convprj(F.max_pool2d(x, 3, 1, padding=1))
        return F.relu(paddle.concat([self._conv1(x), three, five, pooled], axis=1))


class GoogLeNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 45, odd ones too.

    In training a tuple of three logits: the classifier's and the two auxiliary ones', which see
    Inception 4a and 4d.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("_fc_out", "_out1", "_out2")

    def __init__(self, spec: GoogLeNetSpec, num_classes: int) -> None:
        super().__init__()
        stem, before = spec.stem_widths
        self._conv = _googlenet_conv((3, stem), 7, stride=2)
        self._conv_1 = _googlenet_conv((stem, stem), 1)
        self._conv_2 = _googlenet_conv((stem, before), 3)
        outs = [row.one + row.three + row.five + row.pooled for row in spec.blocks]
        for name, row, after in zip(_INCEPTIONS, spec.blocks, outs, strict=True):
            self.add_sublayer(f"_ince{name}", _InceptionBlock(before, row))
            before = after
        self._fc_out = _googlenet_linear(before, num_classes, before)
        width, hidden = spec.auxiliary_widths
        # The fan-in is the paper's, of a map of 4x4; here it is of 3x3.
        self._conv_o1 = _googlenet_conv((outs[_INCEPTIONS.index("4a")], width), 1)
        self._fc_o1 = _googlenet_linear(3 * 3 * width, hidden, 4 * 4 * width)
        self._out1 = _googlenet_linear(hidden, num_classes, hidden)
        self._conv_o2 = _googlenet_conv((outs[_INCEPTIONS.index("4d")], width), 1)
        self._fc_o2 = _googlenet_linear(3 * 3 * width, hidden, 4 * 4 * width)
        self._out2 = _googlenet_linear(hidden, num_classes, hidden)
        self._drop = nn.Dropout(0.4, mode="downscale_in_infer")
        self._drop_auxiliary = nn.Dropout(0.7, mode="downscale_in_infer")

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Feature maps of the four stages, as in `Network.features`."""
        maps = self._maps(x)
        return {f"stage{i}": maps[name] for i, name in enumerate(("stem", "3b", "4e", "5b"), 1)}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: paddle.Tensor
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Logits float [N, num_classes] of images `x`, three of them in training."""
        maps = self._maps(x)
        logits = self._fc_out(self._drop(global_average(maps["5b"])))
        if not self.training:
            return logits
        first = F.relu(self._fc_o1(self._conv_o1(_pooled(maps["4a"])).flatten(1)))
        first = self._out1(self._drop_auxiliary(first))
        second = self._fc_o2(self._conv_o2(_pooled(maps["4d"])).flatten(1))  # as published: no ReLU
        return logits, first, self._out2(self._drop_auxiliary(second))

    def _maps(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Output of every block and of the stem, by name."""
        x = F.max_pool2d(self._conv(x), 3, 2)
        x = self._conv_2(self._conv_1(x))
        maps = {"stem": x}
        for name in _INCEPTIONS:
            if name.endswith("a"):
                x = F.max_pool2d(x, 3, 2)
            x = maps[name] = getattr(self, f"_ince{name}")(x)
        return maps


def _pooled(x: paddle.Tensor) -> paddle.Tensor:
    """A map of 3x3. At 224 px the first pooling gives it; PaddleClas refuses other sizes."""
    return F.adaptive_avg_pool2d(F.avg_pool2d(x, 5, 3), 3)


def _googlenet_conv(channels: tuple[int, int], kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2D(*channels, kernel, stride=stride, padding=(kernel - 1) // 2, bias_attr=False)
    return nn.Sequential(("_conv", conv))


def _googlenet_linear(features: int, out: int, fan_in: int) -> nn.Linear:
    return nn.Linear(features, out, weight_attr=uniform(math.sqrt(3 / fan_in)))
