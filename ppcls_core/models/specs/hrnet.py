"""HRNet, Wang et al. 2019, "Deep High-Resolution Representation Learning": the variants."""

from typing import ClassVar

from pydantic import PositiveInt

from ppcls_core.models.specs import ModelSpec


class HRNetSpec(ModelSpec):
    """Branches of four resolutions side by side, which exchange their maps module by module."""

    network: ClassVar[str] = "ppcls_core.models.networks.hrnet:HRNet"

    width: PositiveInt
    """Channels of the branch of the highest resolution, doubled by each branch below."""
    modules: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 4, 3)
    """Modules of the stages of two, three and four branches."""
    depth: PositiveInt = 4
    """Residual blocks of a branch in one module, and of the stage before there are branches."""
    stem_width: PositiveInt = 64
    """Channels of the first two convolutions."""
    head_width: PositiveInt = 32
    """The head's maps have 4 times as many channels at the highest resolution, doubled below."""
    feature_width: PositiveInt = 2048
    """Channels that the classifier sees."""


VARIANTS = {f"HRNet_W{w}_C": HRNetSpec(width=w) for w in (18, 30, 32, 40, 44, 48, 64)}
