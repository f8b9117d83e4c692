"""VGG: the network. Its variants are the rows of specs/vgg.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppcls_core.models.networks.layers import Network, pooled_stages
from ppcls_core.models.specs.vgg import VGGSpec


class VGG(Network):
    """Images float [N, 3, H, W] to logits [N, num_classes]; H and W from 32, odd ones too."""

    classifiers: ClassVar[tuple[str, ...]] = ("fc3",)

    def __init__(self, spec: VGGSpec, num_classes: int) -> None:
        super().__init__()
        self.stages = [[self.add_sublayer(name, stage)] for name, stage in _stages(spec)]
        self.fc1 = nn.Linear(8 * spec.width * 7 * 7, spec.hidden)
        self.fc2 = nn.Linear(spec.hidden, spec.hidden)
        self.fc3 = nn.Linear(spec.hidden, num_classes)
        self.drop = nn.Dropout(0.5, mode="downscale_in_infer")

    def features(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return pooled_stages(x, self.stages, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(self.features(x)["stage5"], 2, 2)
        # Nothing at 224 px, where the map is 7x7 already; PaddleClas refuses other sizes.
        x = F.adaptive_avg_pool2d(x, 7).flatten(1)
        x = self.drop(F.relu(self.fc1(x)))
        x = self.drop(F.relu(self.fc2(x)))
        return self.fc3(x)


def _stages(spec: VGGSpec) -> Iterator[tuple[str, nn.Sequential]]:
    before = 3
    for stage, depth in enumerate(spec.depths):
        after = spec.width << min(stage, 3)
        layers: list[tuple[str, nn.Layer]] = []
        for index in range(1, depth + 1):
            conv = nn.Conv2D(before, after, 3, padding=1, bias_attr=False)
            layers += [(f"conv{index}", conv), (f"relu{index}", nn.ReLU())]
            before = after
        yield f"conv_block_{stage + 1}", nn.Sequential(*layers)
