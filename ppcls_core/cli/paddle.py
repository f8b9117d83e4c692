"""Paddle as the commands start it."""

from __future__ import annotations

import os

from ppcls_core.runtime.terminal import import_paddle


def start_paddle(threads: int | None) -> int:
    """Import Paddle to compute with `threads` threads, all cores by default; how many they are."""
    num_threads = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # read when it is imported
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors; it reports its executors otherwise
    import_paddle()
    return num_threads
