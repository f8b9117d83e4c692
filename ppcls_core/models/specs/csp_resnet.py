"""CSPResNet, Wang et al. 2019, "CSPNet: A New Backbone that can Enhance Learning Capability of
CNN": the variant.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class CSPResNetSpec(ModelSpec):
    """A stem, four stages that double the width and whose residual blocks one of two paths has."""

    network: ClassVar[str] = "ppcls_core.models.networks.csp_resnet:CSPResNet"

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Residual blocks of each stage."""
    width: PositiveInt = 64
    """Channels of the stem and of stage 1's 3x3 convolutions, doubled by each stage; stages put out
    twice as many."""


VARIANTS = {"CSPResNet50_leaky": CSPResNetSpec(depths=(3, 3, 5, 2))}
