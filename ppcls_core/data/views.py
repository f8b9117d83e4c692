"""An image as a network sees it: the test-time view 0, and augmented views 1, 2 ...

A view is a pure function of (seed, image, number). A training sees view 1 of every image in its
first epoch, view 2 in the second and so on.
"""

from functools import cached_property, partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from data_catalog.base.config import Config, UserError
from data_catalog.images.columns import Source
from ppcls_core.data.augment import Operator, sized
from ppcls_core.data.decode import read_image
from ppcls_core.data.kept import Read
from ppcls_core.data.transforms import Preprocess, needed, train_transform
from ppcls_core.runtime.randomness import generator, seed_of


class TestView(Config):
    """View 0."""

    name: Literal["TestView"] = "TestView"
    preprocess: Preprocess

    def pixels(
        self, source: Source, image_id: str, number: int, read: Read = read_image
    ) -> np.ndarray:
        """uint8 [3, S, S], whatever the number: Fix knows no other view. Raises BadImage."""
        return self.preprocess(read(source, None))

    def at(self, preprocess: Preprocess) -> "TestView":
        """The view of a network that sees images so."""
        return TestView(preprocess=preprocess)

    def seed(self, image_id: str, number: int) -> int:
        """0: nothing is random."""
        return 0


class AugmentedViews(Config):
    """Views 1 to `num`; what grows with a training's progress grows with the number."""

    name: Literal["AugmentedViews"] = "AugmentedViews"
    augmentation: tuple[Operator, ...]
    image_size: int
    root_seed: int
    num: int

    def pixels(
        self, source: Source, image_id: str, number: int, read: Read = read_image
    ) -> np.ndarray:
        """uint8 [3, S, S] of what `read` gives. Raises BadImage."""
        fresh = partial(generator, *self._key(image_id, number))
        image = read(source, lambda shape: needed(self.operators, shape, fresh))
        pixels = train_transform(image, self.operators, fresh(), (number - 1) / self.num)
        if pixels.shape[1:] != (self.image_size, self.image_size):
            raise UserError(
                f"the augmentation gives images of {pixels.shape[1]} x {pixels.shape[2]} pixels, "
                f"but `image_size` is {self.image_size}: let `augmentation` have a `RandomCrop`, "
                "or a `Resize` and a `CenterCrop`, of that size"
            )
        return pixels

    def at(self, preprocess: Preprocess) -> "AugmentedViews":
        """The same crops at the resolution of a network that is tested so."""
        return AugmentedViews(
            augmentation=self.augmentation,
            image_size=preprocess.size,
            root_seed=self.root_seed,
            num=self.num,
        )

    def seed(self, image_id: str, number: int) -> int:
        """Seed of the generator that all operators draw from."""
        return seed_of(*self._key(image_id, number))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """With the size of a random crop filled in."""
        return sized(self.augmentation, self.image_size)

    def _key(self, image_id: str, number: int) -> tuple[int, int, str]:
        return self.root_seed, number - 1, image_id  # (seed, epoch, image)


Views = Annotated[TestView | AugmentedViews, Field(discriminator="name")]
"""The views of images in which a network sees them."""
