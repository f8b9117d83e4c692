"""Whether images are loaded as fast as they are used, and what to say where they are not."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from data_catalog.base.words import counted

T = TypeVar("T")
MIN_SECONDS, MAX_WAITING = 5.0, 0.25  # before which nothing is said; share of the time


@dataclass
class Pace:
    """Seconds that who uses batches of images waits for them, and that it works on them.

    Several may use one at once, each in a thread.
    """

    images: int = 0
    waited: float = 0.0
    worked: float = 0.0

    def of(self, batches: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """`batches`, each of so many images; it is worked on until the next is asked for."""
        asked = time.monotonic()
        for batch in batches:
            given = time.monotonic()
            self.waited += given - asked
            yield batch
            asked = time.monotonic()
            self.worked += asked - given
            self.images += size(batch)

    def text(self, workers: int, user: str, num: int = 1) -> str:
        """A sentence for the case that `user`, which works on `num` batches at once, waits too much
        for those that `workers` threads load in all; empty where it does not."""
        seconds = self.waited + self.worked
        if not self.worked or seconds < MIN_SECONDS or self.waited < MAX_WAITING * seconds:
            return ""
        given, taken = (num * self.images / spent for spent in (seconds, self.worked))
        return (
            f"the loader gives {given:,.0f} images/s, {user} could take {taken:,.0f}: "
            f"more `workers` would load more ({workers} now, on "
            f"{counted(len(os.sched_getaffinity(0)), 'core')})"
        )
