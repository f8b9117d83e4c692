"""DenseNet and Dual Path Networks: the variants.

Huang et al. 2016, "Densely Connected Convolutional Networks"; Chen et al. 2017, "Dual Path
Networks".
"""

from typing import ClassVar, Literal

from pydantic import PositiveInt

from ppcls_core.models.specs import FourStages, ModelSpec


class DenseNetSpec(ModelSpec):
    """Four stages whose layers each see the outputs of all before them."""

    network: ClassVar[str] = "ppcls_core.models.networks.densenet:DenseNet"

    depths: FourStages
    """Dense layers of each stage."""
    stem_width: PositiveInt = 64
    """Channels of the first convolution."""
    growth: PositiveInt = 32
    """Channels that a dense layer adds; its 1x1 convolution puts out four times as many."""


class DPNSpec(ModelSpec):
    """Four stages whose blocks add to some channels, as a ResNet's, and append others, as a
    DenseNet's.
    """

    network: ClassVar[str] = "ppcls_core.models.networks.densenet:DPN"

    depths: FourStages
    """Blocks of each stage."""
    growths: FourStages
    """Channels that a block of each stage appends."""
    groups: PositiveInt
    """Groups of every 3x3 convolution."""
    group_width: PositiveInt
    """Channels of one group in stage 1, doubled by each stage."""
    stem_width: PositiveInt
    """Channels of the first convolution."""
    stem_kernel: Literal[3, 7] = 7
    """Size of the first convolution."""
    width: PositiveInt = 256
    """Channels that stage 1's blocks add to, doubled by each stage."""


VARIANTS: dict[str, ModelSpec] = {
    "DenseNet121": DenseNetSpec(depths=(6, 12, 24, 16)),
    "DenseNet161": DenseNetSpec(depths=(6, 12, 36, 24), stem_width=96, growth=48),
    "DenseNet169": DenseNetSpec(depths=(6, 12, 32, 32)),
    "DenseNet201": DenseNetSpec(depths=(6, 12, 48, 32)),
    "DenseNet264": DenseNetSpec(depths=(6, 12, 64, 48)),
    "DPN68": DPNSpec(
        depths=(3, 4, 12, 3),
        growths=(16, 32, 32, 64),
        groups=32,
        group_width=4,
        stem_width=10,
        stem_kernel=3,
        width=64,
    ),
    "DPN92": DPNSpec(
        depths=(3, 4, 20, 3), growths=(16, 32, 24, 128), groups=32, group_width=3, stem_width=64
    ),
    "DPN98": DPNSpec(
        depths=(3, 6, 20, 3), growths=(16, 32, 32, 128), groups=40, group_width=4, stem_width=96
    ),
    "DPN107": DPNSpec(
        depths=(4, 8, 20, 3), growths=(20, 64, 64, 128), groups=50, group_width=4, stem_width=128
    ),
    "DPN131": DPNSpec(
        depths=(4, 8, 28, 3), growths=(16, 32, 32, 128), groups=40, group_width=4, stem_width=128
    ),
}
