"""MobileNetV1, V2 and V3. Their variants are the rows of specs/mobilenet.py."""

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal

from ppcls_core.models.networks.layers import (
    Activation,
    ConvBN,
    ConvSqueezeExcite,
    Network,
    PrivateConvBN,
    Residual,
    cut_width,
    scale_learning_rate,
    scaled_width,
)
from ppcls_core.models.specs.mobilenet import (
    InvertedResidual,
    MobileNetV1Spec,
    MobileNetV2Spec,
    MobileNetV3Spec,
)

_GroupConvBN = ConvBN.with_settings(counts_group=True)
# The published training of V3 kept L2 decay off its batch norms.
_UndecayedConvBN = ConvBN.with_settings(decay_norm=False)


class MobileNetV1(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: MobileNetV1Spec, num_classes: int) -> None:
        super().__init__()
        self.conv = _GroupConvBN((3, cut_width(spec.stem_width, spec.scale)), 3, stride=2)
        self.blocks = nn.Sequential(*_v1_blocks(spec))
        self.entry, self.trunk = [self.conv], list(self.blocks.children())
        self.fc = nn.Linear(
            cut_width(spec.blocks[-1].out, spec.scale),
            num_classes,
            weight_attr=ParamAttr(initializer=KaimingNormal()),
        )


def _v1_blocks(spec: MobileNetV1Spec) -> Iterator[Residual]:
    before = cut_width(spec.stem_width, spec.scale)
    for row in spec.blocks:
        after = cut_width(row.out, spec.scale)
        depthwise = _GroupConvBN((before, before), 3, row.stride, groups=before)
        pointwise = _GroupConvBN((before, after), 1)
        yield Residual(
            ("depthwise_conv", depthwise),
            ("pointwise_conv", pointwise),
            stride=row.stride,
            is_residual=False,
        )
        before = after


class MobileNetV2(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("out",)

    def __init__(self, spec: MobileNetV2Spec, num_classes: int) -> None:
        super().__init__()
        before = cut_width(spec.stages[-1].out, spec.scale)
        last = int(spec.feature_width * max(spec.scale, 1.0))
        self.conv1 = PrivateConvBN(
            (3, cut_width(spec.stem_width, spec.scale)), 3, 2, activation=F.relu6
        )
        blocks = [self.add_sublayer(name, block) for name, block in _v2_blocks(spec)]
        self.conv9 = PrivateConvBN((before, last), 1, activation=F.relu6)
        self.entry, self.trunk = [self.conv1], [*blocks, self.conv9]
        self.out = nn.Linear(last, num_classes)


def _v2_blocks(spec: MobileNetV2Spec) -> Iterator[tuple[str, Residual]]:
    """(name, block) in order, named as in the published weights: the stem is stage 1 there."""
    before = cut_width(spec.stem_width, spec.scale)
    for number, stage in enumerate(spec.stages, 2):
        after = cut_width(stage.out, spec.scale)
        for index in range(stage.depth):
            name = f"conv{number}_{index + 1}" if index else "_first_block"
            stride = 1 if index else stage.stride
            yield f"conv{number}.{name}", _v2_block((before, after), stage.expansion, stride)
            before = after


def _v2_block(channels: tuple[int, int], expansion: int, stride: int) -> Residual:
    before, after = channels
    width = before * expansion
    expand = PrivateConvBN((before, width), 1, activation=F.relu6)
    depthwise = PrivateConvBN((width, width), 3, stride, groups=width, activation=F.relu6)
    return Residual(
        ("_expand_conv", expand),
        ("_bottleneck_conv", depthwise),
        ("_linear_conv", PrivateConvBN((width, after), 1, activation=None)),
        stride=stride,
        is_residual=stride == 1 and before == after,
    )


class MobileNetV3(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: MobileNetV3Spec, num_classes: int) -> None:
        super().__init__()
        stem = scaled_width(spec.stem_width, spec.scale)
        before = scaled_width(spec.blocks[-1].out, spec.scale)
        last = scaled_width(spec.last_width, spec.scale)
        self.conv = _UndecayedConvBN((3, stem), 3, stride=2, activation=F.hardswish)
        self.blocks = nn.Sequential(*_v3_blocks(spec, stem))
        self.last_second_conv = _UndecayedConvBN((before, last), 1, activation=F.hardswish)
        self.entry = [self.conv]
        self.trunk = trunk = [*self.blocks.children(), self.last_second_conv]
        self.last_conv = nn.Conv2D(last, spec.feature_width, 1, bias_attr=False)
        self.dropout = nn.Dropout(spec.dropout, mode="downscale_in_infer")
        average = nn.AdaptiveAvgPool2D(1)
        self.neck = [average, self.last_conv, F.hardswish, nn.Flatten(), self.dropout]
        self.fc = nn.Linear(spec.feature_width, num_classes)
        self._scale_learning_rates(spec, trunk)

    def _scale_learning_rates(self, spec: MobileNetV3Spec, trunk: list[nn.Layer]) -> None:
        """Scale those of the convolutions; batch norms and the head after pooling keep theirs."""
        fifth = max(1, len(spec.blocks) // 5)
        groups = [0, *(min(index // fifth, 4) for index in range(len(spec.blocks))), 4]
        for group, part in zip(groups, [self.conv, *trunk], strict=True):
            for layer in part.sublayers():
                if isinstance(layer, nn.Conv2D):
                    scale_learning_rate(layer, spec.lr_mult_list[group])


def _v3_blocks(spec: MobileNetV3Spec, before: int) -> Iterator[Residual]:
    for row in spec.blocks:
        after = scaled_width(row.out, spec.scale)
        width = scaled_width(row.expanded, spec.scale)
        yield Residual(
            *_v3_layers((before, width, after), row),
            stride=row.stride,
            is_residual=row.stride == 1 and before == after,
        )
        before = after


def _v3_layers(
    channels: tuple[int, int, int], row: InvertedResidual
) -> Iterator[tuple[str, nn.Layer]]:
    """Expansion, depthwise convolution, gate, projection; `channels` in, expanded, out."""
    before, width, after = channels
    act: Activation = getattr(F, row.activation)
    yield "expand_conv", _UndecayedConvBN((before, width), 1, activation=act)
    yield "bottleneck_conv", _UndecayedConvBN((width, width), row.kernel, row.stride, width, act)
    if row.squeeze_excite:
        yield "mid_se", ConvSqueezeExcite(width, width // 4, F.relu, _hardsigmoid)
    yield "linear_conv", _UndecayedConvBN((width, after), 1, activation=None)


def _hardsigmoid(x: paddle.Tensor) -> paddle.Tensor:
    """The paper's is relu6(x + 3) / 6; PaddleClas's weights were trained with slope 0.2."""
    return F.hardsigmoid(x, slope=0.2, offset=0.5)
