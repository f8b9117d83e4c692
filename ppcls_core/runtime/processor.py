"""The processor's vendor and abilities, as Linux tells them."""

from itertools import takewhile
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_words(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The words of Linux's `cpuinfo` on the first core: its vendor and its flags are among them.
    None on another system."""
    try:
        with cpuinfo.open() as lines:
            return frozenset(word for line in takewhile(str.strip, lines) for word in line.split())
    except OSError:
        return frozenset()
