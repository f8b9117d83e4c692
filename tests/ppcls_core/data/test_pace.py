"""Who waits for images is told; who does not is left alone."""

from types import SimpleNamespace

import pytest

from ppcls_core.data import pace
from ppcls_core.data.pace import Pace


@pytest.mark.parametrize(
    ("loading", "working", "said"),
    [
        (0.213, 0.085, "the loader gives 859 images/s, the step could take 3,012: "),
        (0.01, 0.085, ""),
        (0.001, 0.0001, ""),  # in all too short to tell
    ],
)
def test_a_loader_that_is_too_slow_is_told(monkeypatch, loading, working, said):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    found = Pace()

    def batches():
        for _ in range(100):
            clock.now += loading
            yield 256

    for _ in found.of(batches(), lambda batch: batch):
        clock.now += working
    assert found.images == 25600
    text = found.text(8, "the step")
    assert text.startswith(said)
    assert ("(8 now, on" in text) == bool(said)
