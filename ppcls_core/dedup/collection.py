"""The images of a folder, a list file or tars, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.images import collect as reader
from data_catalog.images.columns import Images, Source, write_images
from data_catalog.images.identity import cache_folder, content_digest

PART = 2048  # images whose rows are held at a time


@dataclass(frozen=True)
class Collection:
    """`images`, in parts of PART."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def damaged(self) -> list[dict[str, str]]:
        """REJECTED rows of what could not be read of tars."""
        return self.images.damaged.to_pylist()

    @property
    def digest(self) -> str:
        """sha256 over ids and contents."""
        return content_digest(self.images)

    @property
    def parts(self) -> range:
        """Numbers of the parts, PART images each, the last fewer."""
        return range(-(-len(self) // PART))

    def part(self, number: int) -> tuple[list[str], list[Source]]:
        """(image_id, where its bytes are) of each image of a part."""
        part = self.images.part(number * PART, (number + 1) * PART)
        return list(part.ids), part.sources()

    @property
    def ids(self) -> Sequence[str]:
        """image_id of each image."""
        return self.images.ids

    @property
    def sources(self) -> Sequence[Source]:
        """Where the bytes of each image are."""
        return self.images.sources()

    def find(self, ids: Iterable[str]) -> dict[str, Source]:
        """Where those of `ids` that are here lie."""
        return self.images.find(ids)


def collect(given: Path, file: Path) -> Collection:
    """The images of `given`, whose rows are written to `file`; see `reader.collect`."""
    images = reader.collect(given, cache_folder())
    write_images(file, images)
    return Collection(images)
