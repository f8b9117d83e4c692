"""Which models there are: one module a family, one typed row a variant. Free of Paddle.

A recipe names a model and may override fields of its spec; both are checked here in milliseconds,
while importing Paddle takes seconds. The network that a spec describes is `ModelSpec.network`.
"""

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt

from data_catalog.base.config import Config

Row = TypeVar("Row")


def _not_empty(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    if not rows:
        raise ValueError("at least one is needed")
    return rows


NotEmpty = Annotated[tuple[Row, ...], AfterValidator(_not_empty)]
Colour = tuple[float, float, float]
MEAN: Colour = (0.485, 0.456, 0.406)  # of ImageNet's RGB values in [0, 1]
STD: Colour = (0.229, 0.224, 0.225)
Probability = Annotated[float, Field(ge=0, lt=1)]
FourStages = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
LearningRateFactors = tuple[
    NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat
]


class ModelSpec(Config):
    """Hyper-parameters of one architecture of a family, without the number of classes."""

    network: ClassVar[str]
    """`module:class` of the network: a Paddle layer made from (spec, number of classes)."""
    min_size: ClassVar[int] = 32
    """Side in pixels of the smallest image of which the network sees something."""

    mean: Colour = MEAN
    """Subtracted from RGB values in [0, 1] before the network sees them."""
    std: Colour = STD
    """The differences are divided by it."""
    interpolation: Literal["cubic"] | None = None
    """How a teacher's images are resized; None: by area to shrink, linear to enlarge."""
