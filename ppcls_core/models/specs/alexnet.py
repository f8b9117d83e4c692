"""AlexNet in one tower, Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks": the variant.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class AlexNetSpec(ModelSpec):
    """Five convolutions without batch norm, then three linear layers."""

    network: ClassVar[str] = "ppcls_core.models.networks.alexnet:AlexNet"
    min_size: ClassVar[int] = 47

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Channels of the convolutions."""
    hidden: PositiveInt = 4096
    """Channels of the linear layers before the classifier."""


VARIANTS = {"AlexNet": AlexNetSpec(widths=(64, 192, 384, 256, 256))}
