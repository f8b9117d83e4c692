"""The other processes of a training on this machine: whether one has ended, and how.

A process that is killed takes the others with it: their exchange fails, or waits for ever, and
Paddle's launcher ends them within seconds. They have to say before that what has happened.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ppcls_core.runtime.processes import exit_text

# Until a process that has not ended by itself tells of a killed one; the launcher needs 3 or more.
TELL_SECONDS = 1.0
# What whoever stops a training sends to all of its processes: they say so themselves.
_ASKED = (-signal.SIGTERM, -signal.SIGINT)


def process_place() -> tuple[str, int]:
    """(what tells machines and containers apart, id of this process there)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}", os.getpid()


class Peers:
    """Processes of this machine by rank; those that are killed are told of on standard error."""

    def __init__(self, pids: Mapping[int, int]) -> None:
        self._ended: dict[int, int | None] = {}
        self._running: dict[int, tuple[int, int]] = {}  # descriptor -> (rank, pid)
        self._lock = threading.Lock()
        for rank, pid in pids.items():
            try:
                self._running[os.pidfd_open(pid)] = rank, pid
            except ProcessLookupError:
                self._ended[rank] = None
            except OSError:  # an old kernel
                continue
        threading.Thread(target=self._tell, daemon=True).start()

    def ended(self, seconds: float = 0.0) -> dict[int, int | None]:
        """Exit status of each that has ended, -N by signal N, None where it is not known.

        Waits at most `seconds` for the first to end.
        """
        with self._lock:
            poll = select.poll()
            for descriptor in self._running:
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(0 if self._ended else 1000 * seconds):
                rank, pid = self._running.pop(descriptor)
                os.close(descriptor)
                self._ended[rank] = _exit_status(pid)
            return dict(self._ended)

    def text(self, seconds: float = 0.0) -> str:
        """Who has ended, in words; empty when nobody has."""
        return ", ".join(
            f"rank {rank} with {'unknown exit status' if status is None else exit_text(status)}"
            for rank, status in sorted(self.ended(seconds).items())
        )

    def _tell(self) -> None:
        killed = False
        while not killed and self._running:
            statuses = self.ended().values()
            killed = any(s is not None and s < 0 and s not in _ASKED for s in statuses)
            time.sleep(0.02)
        if killed:
            time.sleep(TELL_SECONDS)
            print(f"another process of this training has ended: {self.text()}", file=sys.stderr)


def _exit_status(pid: int) -> int | None:
    """Of a process that has ended; None when its parent has asked for it already."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None
