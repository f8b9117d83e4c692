"""EfficientNet: the network. Its variants are the rows of specs/efficientnet.py."""

import math
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
    global_average,
    scaled_width,
)
from ppcls_core.models.specs.efficientnet import EfficientNetSpec, MBConvStage


class _ConvBN(layers.ConvBN):
    """The shared block with TensorFlow's moving average, named as in the published weights."""

    names: ClassVar[tuple[str, str]] = ("_conv._conv", "_bn")
    momentum: ClassVar[float] = 0.99
    epsilon: ClassVar[float] = 1e-3


class ShiftedConvBN(_ConvBN):
    """TensorFlow's convolution of stride 2 on an even size: it starts one place later.

    As in PaddleClas an odd size gets one zero more behind, and so half the size, rounded up.
    """

    is_padded: ClassVar[bool] = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C_in, H, W] to [N, C_out, H / 2, W / 2]."""
        before = (self.parameters()[0].shape[-1] - 3) // 2
        return _ConvBN.forward(self, F.pad(x, [before, before + 2] * 2))


class _SqueezeExcite(ConvSqueezeExcite):
    """The shared block under the names of the published weights."""

    names: ClassVar[tuple[str, str]] = ("_conv1._conv", "_conv2._conv")


class DropConnect(nn.Layer):
    """In training zero for a whole image at `rate`, else scaled up (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, H, W] to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1.0 - self.rate
        kept = paddle.floor(keep + paddle.rand([x.shape[0], 1, 1, 1]))
        return x * kept.astype(x.dtype) / keep


class EfficientNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("_fc",)

    def __init__(self, spec: EfficientNetSpec, num_classes: int) -> None:
        super().__init__()
        factor = 1.0 if spec.fix_head_stem else spec.width_factor
        stem, features = (scaled_width(w, factor) for w in (spec.stem_width, spec.feature_width))
        act, conv = _activation(spec), _strided(spec, spec.resolution)
        self._ef = nn.Sequential(
            ("_conv_stem._conv", conv((3, stem), 3, 2, activation=act)), *_blocks(spec, stem)
        )
        last = scaled_width(spec.stages[-1].out, spec.width_factor)
        self._conv = _ConvBN((last, features), 1, activation=act)
        first, *blocks = self._ef.children()
        self.entry, self.trunk = [first], [*blocks, self._conv]
        self.dropout = nn.Dropout(spec.dropout)
        self.neck = [global_average, self.dropout]
        self._fc = nn.Linear(features, num_classes)


def _activation(spec: EfficientNetSpec) -> Activation:
    return F.relu6 if spec.relu_fn else F.swish


def _strided(spec: EfficientNetSpec, size: int) -> type[_ConvBN]:
    """The convolution of stride 2 on maps of `size`.

    PaddleClas, too, pads as the variant's own resolution wants, whatever the images' size.
    """
    return ShiftedConvBN if spec.padding_type == "SAME" and size % 2 == 0 else _ConvBN


def _blocks(spec: EfficientNetSpec, before: int) -> Iterator[tuple[str, Residual]]:
    """(name, block) in order, named as in the published weights."""
    act, size = _activation(spec), math.ceil(spec.resolution / 2)
    rows = [(stage, index) for stage, depth in _depths(spec) for index in range(depth)]
    for number, (stage, index) in enumerate(rows):
        stride = 1 if index else stage.stride
        conv = _strided(spec, size) if stride == 2 else _ConvBN
        width, after = before * stage.expansion, scaled_width(stage.out, spec.width_factor)
        block: list[tuple[str, nn.Layer]] = []
        if stage.expansion != 1:
            block.append(("_ecn._conv", _ConvBN((before, width), 1, activation=act)))
        block.append(("_dcn._conv", conv((width, width), stage.kernel, stride, width, act)))
        if spec.squeeze_excite:
            squeezed = max(1, before // 4)
            block.append(("_se", _SqueezeExcite(width, squeezed, act, F.sigmoid)))
        block.append(("_pcn._conv", _ConvBN((width, after), 1, activation=None)))
        is_residual = stride == 1 and before == after
        if is_residual:
            block.append(("drop", DropConnect(spec.drop_connect_rate * number / len(rows))))
        name = f"block.{number}." if index else f"_blocks.{number}."
        yield name, Residual(*block, stride=stride, is_residual=is_residual)
        before, size = after, math.ceil(size / stride)


def _depths(spec: EfficientNetSpec) -> Iterator[tuple[MBConvStage, int]]:
    ends = (spec.stages[0], spec.stages[-1]) if spec.fix_head_stem else ()
    for stage in spec.stages:
        yield stage, stage.depth if stage in ends else math.ceil(spec.depth_factor * stage.depth)
