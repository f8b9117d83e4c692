"""DenseNet, Huang et al. 2016, "Densely Connected Convolutional Networks": the variants."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class DenseNetSpec(ModelSpec):
    """Four stages whose layers each see the outputs of all before them."""

    network: ClassVar[str] = "ppcls_core.models.networks.densenet:DenseNet"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Dense layers of each stage."""
    stem_width: PositiveInt = 64
    """Channels of the first convolution."""
    growth: PositiveInt = 32
    """Channels that a dense layer adds; its 1x1 convolution puts out four times as many."""


VARIANTS = {
    "DenseNet121": DenseNetSpec(depths=(6, 12, 24, 16)),
    "DenseNet161": DenseNetSpec(depths=(6, 12, 36, 24), stem_width=96, growth=48),
    "DenseNet169": DenseNetSpec(depths=(6, 12, 32, 32)),
    "DenseNet201": DenseNetSpec(depths=(6, 12, 48, 32)),
    "DenseNet264": DenseNetSpec(depths=(6, 12, 64, 48)),
}
