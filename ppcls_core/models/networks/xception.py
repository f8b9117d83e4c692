"""Xception and its version in DeepLab v3+. Their variants are the rows of specs/xception.py."""

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    Activation,
    BatchNorm,
    Network,
    PrivateConvBN,
    Residual,
    ShortConvBN,
    global_average,
    in_row,
    linear,
)
from ppcls_core.models.specs.xception import XceptionDeeplabSpec, XceptionSpec


def _separable(before: int, after: int, activation: Activation | None = None) -> nn.Sequential:
    """1x1 convolution, then a depthwise 3x3 one, then `activation`."""
    pointwise = PrivateConvBN((before, after), 1, activation=None)
    depthwise = PrivateConvBN((after, after), 3, groups=after, activation=activation)
    return nn.Sequential(("_pointwise_conv", pointwise), ("_depthwise_conv", depthwise))


class _PooledBlock(nn.Layer):
    """shortcut(x) + branch(x): two separable convolutions after ReLUs, and a max pooling.

    Args:
        channels: in, of the first separable convolution, out.
        names: of the separable convolutions.
        stride: of the shortcut's 1x1 convolution and of the pooling.
        relu_first: else the first separable convolution sees x itself.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        names: tuple[str, str],
        stride: int,
        relu_first: bool = True,
    ) -> None:
        super().__init__()
        before, middle, after = channels
        self._short = nn.Conv2D(before, after, 1, stride=stride, bias_attr=False)
        self.add_sublayer(names[0], _separable(before, middle))
        self.add_sublayer(names[1], _separable(middle, after))
        self.stride = stride
        self.relu_first = relu_first

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        short, first, second = self.children()
        branch = second(F.relu(first(F.relu(x) if self.relu_first else x)))
        return short(x) + F.max_pool2d(branch, 3, self.stride, padding=1)


class Xception(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_exit_flow._out",)

    def __init__(self, spec: XceptionSpec, num_classes: int) -> None:
        super().__init__()
        stem, width = spec.stem_width, spec.entry[-1].out
        first, second, last = spec.exit_widths
        self._entry_flow = nn.Sequential(
            ("_conv1", PrivateConvBN((3, stem), 3, stride=2)),
            ("_conv2", PrivateConvBN((stem, 2 * stem), 3)),
            *_entry_blocks(spec),
        )
        self._middle_flow = nn.Sequential(
            *[(f"_conv_{i}", _middle_block(width)) for i in range(spec.middle)]
        )
        self._exit_flow = nn.Sequential(
            ("_conv_0", _PooledBlock((width, width, first), ("_conv_1", "_conv_2"), stride=2)),
            ("_conv_1", _separable(first, second, F.relu)),
            ("_conv_2", _separable(second, last, F.relu)),
            ("_out", linear(last, num_classes)),
        )
        conv1, conv2, *entry = self._entry_flow.children()
        *leave, _ = self._exit_flow.children()
        self.entry = [conv1, conv2]
        self.trunk = [*entry, *self._middle_flow.children(), *leave]


def _entry_blocks(spec: XceptionSpec) -> Iterator[tuple[str, _PooledBlock]]:
    before = 2 * spec.stem_width
    for index, row in enumerate(spec.entry):
        channels = before, row.out, row.out
        block = _PooledBlock(channels, ("_conv1", "_conv2"), row.stride, relu_first=index > 0)
        yield f"_conv_{index}", block
        before = row.out


def _middle_block(width: int) -> Residual:
    row: list[tuple[str, nn.Layer]] = []
    for index in range(3):
        row += [(f"relu_{index}", nn.ReLU()), (f"_conv_{index}", _separable(width, width))]
    return Residual(*row)


_NORM = _MOMENTUM, _EPSILON = 0.99, 1e-3  # of all of DeepLab's batch norms
_DeeplabConvBN = ShortConvBN.with_settings(momentum=_MOMENTUM, epsilon=_EPSILON)


def _deeplab_separable(
    before: int, after: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Depthwise 3x3 convolution with batch norm, then a 1x1 one; ReLUs after both if dilated."""
    padding = dilation  # which keeps the size
    depthwise = nn.Conv2D(
        before, before, 3, stride, padding, dilation, groups=before, bias_attr=False
    )
    activation = nn.ReLU if dilation > 1 else nn.Identity
    return nn.Sequential(
        ("_conv1", depthwise),
        ("_bn1", BatchNorm(before, *_NORM)),
        ("activation1", activation()),
        ("_conv2", nn.Conv2D(before, after, 1, bias_attr=False)),
        ("_bn2", BatchNorm(after, *_NORM)),
        ("activation2", activation()),
    )


class _StridedBlock(nn.Sequential):
    """branch(x) + shortcut(x): three separable convolutions after ReLUs, and a 1x1 convolution.

    Args:
        before: channels in.
        widths: channels of the separable convolutions.
        stride: of the last of them and of the shortcut.
    """

    def __init__(self, before: int, widths: tuple[int, int, int], stride: int) -> None:
        short = _DeeplabConvBN((before, widths[-1]), 1, stride, activation=None)
        super().__init__(*_branch(before, widths, stride), ("_short", short))
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        *row, short = self.children()
        return in_row(row, x) + short(x)


class XceptionDeeplab(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc",)

    def __init__(self, spec: XceptionDeeplabSpec, num_classes: int) -> None:
        super().__init__()
        self._conv1 = _DeeplabConvBN((3, spec.stem_width), 3, stride=2)
        self._conv2 = _DeeplabConvBN((spec.stem_width, 2 * spec.stem_width), 3)
        self.entry = [self._conv1, self._conv2]
        self.trunk = [self.add_sublayer(name, block) for name, block in _deeplab_blocks(spec)]
        self._drop = nn.Dropout(0.5, mode="downscale_in_infer")
        self.neck = [self._drop, global_average]  # each place dropped on its own
        self._fc = nn.Linear(spec.exit_widths[-1], num_classes)


def _deeplab_blocks(spec: XceptionDeeplabSpec) -> Iterator[tuple[str, nn.Layer]]:
    """All flows in one row, under the names of the published weights: xception_41 and so on."""
    prefix = f"xception_{8 + 3 * (len(spec.entry) + spec.middle)}"  # the number of convolutions
    before = 2 * spec.stem_width
    for index, (width, stride) in enumerate(spec.entry, 1):
        block = _StridedBlock(before, (width, width, width), stride)
        yield f"{prefix}/entry_flow/block{index}", block
        before = width
    for index in range(1, spec.middle + 1):
        middle = Residual(*_branch(before, (before, before, before)))
        yield f"{prefix}/middle_flow/block{index}", middle
    first, second, last = spec.exit_widths
    yield "_exit_flow_1", _StridedBlock(before, (before, first, first), stride=2)
    dilated = (
        ("_conv1", _deeplab_separable(first, second, dilation=2)),
        ("_conv2", _deeplab_separable(second, second, dilation=2)),
        ("_conv3", _deeplab_separable(second, last, dilation=2)),
    )
    yield "_exit_flow_2", Residual(*dilated, is_residual=False)


def _branch(
    before: int, widths: tuple[int, int, int], stride: int = 1
) -> Iterator[tuple[str, nn.Layer]]:
    for index, (width, step) in enumerate(zip(widths, (1, 1, stride), strict=True), 1):
        yield f"relu{index}", nn.ReLU()
        yield f"_conv{index}", _deeplab_separable(before, width, step)
        before = width
