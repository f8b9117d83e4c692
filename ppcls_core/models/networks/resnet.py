"""ResNet and its descendants: the network. Its variants are the rows of specs/resnet.py.

Weights have other names in other families, so the parts are held in lists and registered under the
names that the spec's layout gives them.
"""

from functools import partial
from typing import TypeVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.acnet import AsymmetricConv, FusedConv
from ppcls_core.models.networks.layers import (
    ConvBN,
    Network,
    PrivateConvBN,
    ResidualBlock,
    ShortConvBN,
    SqueezeExcite,
    Step,
    linear,
    pool,
    scale_learning_rate,
)
from ppcls_core.models.specs.resnet import LAYOUTS, ResNetSpec, block_name

Part = TypeVar("Part", bound=nn.Layer)
_UNITS = {unit.names: unit for unit in (ConvBN, PrivateConvBN, ShortConvBN)}


class _Block(ResidualBlock):
    """Convolutions and what the spec adds to them, and the shortcut, added.

    Args:
        spec: of the network.
        stage: from 0.
        index: from 0 in the stage; the first block halves the size, but in stage 0, and its
            shortcut is a 1x1 convolution, even ResNet18's first, which need not be one.
        before: channels of the input.
    """

    def __init__(self, spec: ResNetSpec, stage: int, index: int, before: int) -> None:
        super().__init__(stride=2 if stage > 0 and index == 0 else 1)
        self.name = block_name(stage, index, spec.depths[stage])
        names, unit, spatial = LAYOUTS[spec.layout], _unit(spec), _spatial(spec)
        inner, after = spec.inner(stage), spec.out(stage)
        branch: list[Step]
        if spec.bottleneck:
            branch = [
                _add(self, names.conv.format(0), unit((before, inner), 1)),
                self._middle(spec, inner),
                _add(self, names.conv.format(2), unit((inner, after), 1, activation=None)),
            ]
        else:
            branch = [
                _add(self, names.conv.format(0), spatial((before, after), 3, self.stride)),
                _add(self, names.conv.format(1), spatial((after, after), 3, activation=None)),
            ]
        if spec.reduction is not None:
            gate = SqueezeExcite(after, max(1, after // spec.reduction))
            branch.append(_add(self, "scale", gate))
        self.branch = branch
        if index == 0:
            averages = spec.average_shortcut and self.stride == 2
            short = unit((before, after), 1, 1 if averages else self.stride, activation=None)
            _add(self, names.short, short)
            self.shortcut = [nn.AvgPool2D(2, 2, ceil_mode=True), short] if averages else [short]

    def _middle(self, spec: ResNetSpec, channels: int) -> Step:
        """A bottleneck's 3x3 convolution."""
        spatial = _spatial(spec)
        if spec.scales == 1:
            conv = spatial((channels, channels), 3, self.stride, spec.cardinality)
            return _add(self, LAYOUTS[spec.layout].conv.format(1), conv)
        part = channels // spec.scales
        convs: list[Step] = []
        for number in range(1, spec.scales):
            conv = spatial((part, part), 3, self.stride, spec.cardinality)
            convs.append(_add(self, f"{self.name}_branch2b_{number}", conv))
        return partial(_hierarchical, convs, self.stride)


class ResNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: ResNetSpec, num_classes: int) -> None:
        super().__init__()
        names = LAYOUTS[spec.layout]
        width = spec.stem_width or spec.width
        rows = [(names.stem, (3, width), 7, 2)]
        if spec.deep_stem:
            ends = [(3, width // 2), (width // 2, width // 2), (width // 2, width)]
            rows = list(zip(names.deep_stem, ends, (3, 3, 3), (2, 1, 1), strict=True))
        entry: list[Step] = []
        for name, channels, kernel, stride in rows:
            conv = _add(self, name, _spatial(spec)(channels, kernel, stride))
            scale_learning_rate(conv, spec.lr_mult_list[0])
            entry.append(conv)
        trunk: list[nn.Layer] = []
        for stage, index, name in spec.blocks():
            block = _add(self, name, _Block(spec, stage, index, width))
            scale_learning_rate(block, spec.lr_mult_list[stage + 1])
            trunk.append(block)
            width = spec.out(stage)
        self.entry, self.trunk = [*entry, pool], trunk
        self.classifiers: tuple[str, ...] = (names.classifier,)  # pyright: ignore[reportIncompatibleVariableOverride]
        # The WSL network's starts from Paddle's default, uniform in +-sqrt(6 / (in + out)).
        make = nn.Linear if spec.layout == "wsl" else linear
        _add(self, names.classifier, make(width, num_classes))


def _unit(spec: ResNetSpec) -> type[ConvBN]:
    return _UNITS[LAYOUTS[spec.layout].unit]


def _spatial(spec: ResNetSpec) -> type[ConvBN] | type[AsymmetricConv] | type[FusedConv]:
    """The kind of layer used for convolutions wider than 1x1."""
    kinds = {"plain": _unit(spec), "asymmetric": AsymmetricConv, "fused": FusedConv}
    return kinds[spec.spatial]


def _add(parent: nn.Layer, path: str, part: Part) -> Part:
    """Register `part` under the dotted `path`, inside containers made where they are missing."""
    *outer, name = path.split(".")
    for container in outer:
        if container not in dict(parent.named_children()):
            parent.add_sublayer(container, nn.Sequential())
        parent = getattr(parent, container)
    parent.add_sublayer(name, part)
    return part


def _hierarchical(convs: list[Step], stride: int, x: paddle.Tensor) -> paddle.Tensor:
    """Res2Net's 3x3 convolution of [N, C, H, W]: `x` falls into one part more than `convs`.

    Each convolution sees its part and, at stride 1, what the one before made of its own; the last
    part stays as it is, at stride 2 averaged.
    """
    *parts, last = x.split(len(convs) + 1, axis=1)
    done: list[paddle.Tensor] = []
    for conv, part in zip(convs, parts, strict=True):
        done.append(conv(part + done[-1] if done and stride == 1 else part))
    done.append(last if stride == 1 else F.avg_pool2d(last, 3, stride, padding=1))
    return paddle.concat(done, axis=1)
