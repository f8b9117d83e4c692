"""Attributes that threads compute."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from data_catalog.base.threads import cached_attribute


def test_threads_compute_the_attribute_of_two_instances_at_once() -> None:
    both = Barrier(2, timeout=60)  # broken if one waits for the other

    class Picture:
        num_computed = 0

        @cached_attribute
        def features(self) -> int:
            both.wait()
            self.num_computed += 1
            return id(self)

    pictures = [Picture(), Picture()]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda picture: picture.features, pictures))
    assert found == [picture.features for picture in pictures] == [id(p) for p in pictures]
    assert [picture.num_computed for picture in pictures] == [1, 1]
