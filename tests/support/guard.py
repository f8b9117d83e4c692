"""Ends what a process of tests has started once that process is gone, however it ended.

    python -m tests.support.guard PID MARK

It waits for process PID and kills all processes in whose environment MARK stands: servers run apart
from whoever started them, and a killed test cannot stop its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.processes import is_running, kill_with_environment

_VARIABLE = "SSLD_TESTS"
_PROJECT = Path(__file__).resolve().parents[2]


def start_guard() -> None:
    """Guard this process: what it starts from now on ends with it."""
    mark = f"{os.getpid()}-{time.time_ns()}"
    command = [sys.executable, "-m", __name__, str(os.getpid()), f"{_VARIABLE}={mark}"]
    # In a session of its own, which Ctrl-C in a terminal does not reach.
    subprocess.run(["setsid", "--fork", *command], cwd=_PROJECT, check=True)
    os.environ[_VARIABLE] = mark  # after the guard is started, which must not find itself


def main(pid: int, mark: str) -> None:
    """Wait for the end of `pid`, then kill."""
    while is_running(pid):
        time.sleep(0.5)
    kill_with_environment(mark)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
