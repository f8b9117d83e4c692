"""Paddle as the commands start it, and the modules that import it."""

from __future__ import annotations

import os
import pkgutil
from typing import Any

from ppcls_core.runtime.paddle import import_paddle


def start_paddle(threads: int | None) -> int:
    """Import Paddle to compute with `threads` threads, all cores by default; how many they are."""
    num_threads = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # read when it is imported
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors; it reports its executors otherwise
    import_paddle()
    return num_threads


def late(name: str) -> Any:
    """The module, or object "module:name" of one, that imports Paddle, which takes seconds.

    Commands name such objects where they use them, after they have checked what they were given.
    """
    import_paddle()
    return pkgutil.resolve_name(name)
