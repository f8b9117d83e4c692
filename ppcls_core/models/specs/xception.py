"""Xception, Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions", and its
version of Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution" (DeepLab v3+): the
variants.
"""

from typing import ClassVar, Literal, NamedTuple

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec, NotEmpty


class EntryBlock(NamedTuple):
    """One block before the middle flow. A recipe writes it as a list: `[128, 2]`."""

    out: PositiveInt
    stride: Literal[1, 2]


class XceptionSpec(ModelSpec):
    """Entry flow, middle flow of blocks that keep the map's shape, exit flow."""

    network: ClassVar[str] = "ppcls_core.models.networks.xception:Xception"

    entry: NotEmpty[EntryBlock] = (EntryBlock(128, 2), EntryBlock(256, 2), EntryBlock(728, 2))
    """Blocks of the entry flow; the last one's channels are the middle flow's."""
    middle: PositiveInt
    """Blocks of the middle flow."""
    stem_width: PositiveInt = 32
    """Channels of the first convolution; the second has twice as many."""
    exit_widths: tuple[PositiveInt, PositiveInt, PositiveInt] = (1024, 1536, 2048)
    """Channels of the exit flow; the classifier sees the last."""


class XceptionDeeplabSpec(XceptionSpec):
    """The same flows of other blocks: strided convolutions in place of max pooling."""

    network: ClassVar[str] = "ppcls_core.models.networks.xception:XceptionDeeplab"


VARIANTS = {
    "Xception41": XceptionSpec(middle=8),
    "Xception65": XceptionSpec(middle=16),
    "Xception71": XceptionSpec(
        entry=tuple(map(EntryBlock._make, [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)])),
        middle=16,
    ),
    "Xception41_deeplab": XceptionDeeplabSpec(middle=8),
    "Xception65_deeplab": XceptionDeeplabSpec(middle=16),
}
