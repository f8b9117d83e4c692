"""HRNet: the network. Its variants are the rows of specs/hrnet.py.

Branch i has the resolution 1 / (4 * 2^i) and 2^i times the width. Between modules the branches'
maps travel as a list.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import (
    ConvBN,
    Network,
    ResidualBlock,
    global_average,
    in_row,
    linear,
)
from ppcls_core.models.specs.hrnet import HRNetSpec

Maps = list[paddle.Tensor]


class Fuse(nn.Layer):
    """To every branch's map all others are added, brought to its width and resolution.

    From a lower resolution by a 1x1 convolution and the nearest place, from a higher one by 3x3
    convolutions of stride 2.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.residual_func_list = nn.LayerList()
        self.paths: dict[tuple[int, int], list[ConvBN]] = {}
        for i, target in enumerate(widths):
            for j, source in enumerate(widths):
                path = _path(source, target, i - j)
                self.residual_func_list.extend(path)
                self.paths[i, j] = path

    def forward(self, maps: Maps) -> Maps:
        """Maps [N, widths[i], H / 2^i, W / 2^i] to as many of the same shapes."""
        fused = []
        for i, target in enumerate(maps):
            total = target
            for j, source in enumerate(maps):
                if j == i:
                    continue
                x = in_row(self.paths[i, j], source)
                if j > i:  # to the very size: an odd one is not twice the lower branch's
                    x = F.interpolate(x, size=target.shape[2:], mode="nearest")
                total = total + x
            fused.append(F.relu(total))
        return fused


class _Module(nn.Layer):
    """Residual blocks in each branch, then the exchange."""

    def __init__(self, widths: list[int], depth: int) -> None:
        super().__init__()
        self.basic_block_list = nn.LayerList(
            [nn.Sequential(*[_basic(width) for _ in range(depth)]) for width in widths]
        )
        self.fuse_func = Fuse(widths)

    def forward(self, maps: Maps) -> Maps:
        return self.fuse_func([self.basic_block_list[i](x) for i, x in enumerate(maps)])


class HRNet(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    def __init__(self, spec: HRNetSpec, num_classes: int) -> None:
        super().__init__()
        stem, head = spec.stem_width, spec.head_width
        widths = [spec.width << i for i in range(4)]
        self.conv_layer1_1 = ConvBN((3, stem), 3, stride=2)
        self.conv_layer1_2 = ConvBN((stem, stem), 3, stride=2)
        self.layer1 = nn.Sequential(
            *[_bottleneck(4 * stem if i else stem, stem, i == 0) for i in range(spec.depth)]
        )
        self.conv_tr1_1 = ConvBN((4 * stem, widths[0]), 3)
        self.conv_tr1_2 = ConvBN((4 * stem, widths[1]), 3, stride=2)
        self.st2 = _stage(spec, widths[:2])
        self.conv_tr2 = ConvBN((widths[1], widths[2]), 3, stride=2)
        self.st3 = _stage(spec, widths[:3])
        self.conv_tr3 = ConvBN((widths[2], widths[3]), 3, stride=2)
        self.st4 = _stage(spec, widths)
        self.head = [_bottleneck(width, head << i, True) for i, width in enumerate(widths)]
        self.last_cls = nn.Sequential(("func_list", nn.LayerList(self.head)))
        self.cls_head_conv_list = nn.LayerList(
            [ConvBN((4 * head << i, 8 * head << i), 3, stride=2) for i in range(3)]
        )
        self.conv_last = ConvBN((32 * head, spec.feature_width), 1)
        self.fc = linear(spec.feature_width, num_classes)

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """The maps of the four branches, of strides 4 to 32; the head sees all."""
        x = self.layer1(self.conv_layer1_2(self.conv_layer1_1(x)))
        maps = self.st2([self.conv_tr1_1(x), self.conv_tr1_2(x)])
        maps = self.st3([*maps, self.conv_tr2(maps[-1])])
        maps = self.st4([*maps, self.conv_tr3(maps[-1])])
        return {f"stage{number}": x for number, x in enumerate(maps, 1)}

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits float [N, num_classes] of images `x`, from the maps of all branches."""
        maps = [self.head[i](x) for i, x in enumerate(self.features(x).values())]
        x = maps[0]
        for i, halve in enumerate(self.cls_head_conv_list):
            x = maps[i + 1] + halve(x)
        return self.fc(global_average(self.conv_last(x)))


def _stage(spec: HRNetSpec, widths: list[int]) -> nn.Sequential:
    modules = [_Module(widths, spec.depth) for _ in range(spec.modules[len(widths) - 2])]
    return nn.Sequential(("stage_func_list", nn.Sequential(*modules)))


def _basic(width: int) -> ResidualBlock:
    last = ConvBN((width, width), 3, activation=None)  # made first, as its Paddle name says
    return ResidualBlock([("conv1", ConvBN((width, width), 3)), ("conv2", last)])


def _bottleneck(before: int, width: int, project: bool) -> ResidualBlock:
    """1x1, 3x3, 1x1 to four times the width."""
    last = ConvBN((width, 4 * width), 1, activation=None)
    first, middle = ConvBN((before, width), 1), ConvBN((width, width), 3)
    down = [ConvBN((before, 4 * width), 1, activation=None)] if project else []
    branch = [("conv1", first), ("conv2", middle), ("conv3", last)]
    return ResidualBlock(branch, [("conv_down", conv) for conv in down])


def _path(source: int, target: int, halvings: int) -> list[ConvBN]:
    """From a branch of width `source` to one of width `target`, `halvings` below (or above)."""
    if halvings == 0:
        return []
    if halvings < 0:
        return [ConvBN((source, target), 1, activation=None)]
    keep = [ConvBN((source, source), 3, stride=2) for _ in range(halvings - 1)]
    return [*keep, ConvBN((source, target), 3, stride=2, activation=None)]
