"""Decoded images that later epochs find in memory, where a data set is small."""

from collections.abc import Callable
from threading import Lock

import numpy as np

from data_catalog.images.columns import Source
from ppcls_core.data.decode import Needed, Part, read_image

MAX_BYTES = 1 << 28  # of pixels kept for a training: 4,000 images of 170 x 128, 500 of 500 x 375
Read = Callable[[Source, Needed | None], np.ndarray]


class KeptImages:
    """Reads images as `read_image` does, and keeps those it decoded as a whole, up to `max_bytes`.

    The pixels are always those of `read_image`: of a JPEG of which only a part was needed nothing
    is kept, and where a kept one is needed at a reduced size it is decoded again. Any number of
    threads may read at once.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._kept: dict[Source, tuple[np.ndarray, tuple[int, int] | None]] = {}
        self._room, self._lock = max_bytes, Lock()

    def read(self, source: Source, needed: Needed | None = None) -> np.ndarray:
        """uint8 RGB [H, W, 3], not to be written to. Raises BadImage."""
        image, shape = self._kept.get(source, (None, None))
        if image is not None and (shape is None or not needed or needed(shape).divisor == 1):
            return image
        parts: list[tuple[tuple[int, int], Part]] = []

        def noted(shape: tuple[int, int]) -> Part:
            parts.append((shape, needed(shape) if needed else Part()))
            return parts[-1][1]

        found = read_image(source, noted)
        if image is None and all(_is_whole(part, shape) for shape, part in parts):
            self._keep(source, found, parts[0][0] if parts else None)
        return found

    def _keep(self, source: Source, image: np.ndarray, shape: tuple[int, int] | None) -> None:
        """Keep it where there is room; `shape` (height, width) is that in a JPEG's header."""
        with self._lock:
            if image.nbytes > self._room or source in self._kept:
                return
            self._room -= image.nbytes
            image.flags.writeable = False
            self._kept[source] = image, shape


def _is_whole(part: Part, shape: tuple[int, int]) -> bool:
    return part.divisor == 1 and (part.rows is None or part.rows >= shape[0])
