"""Processes that train as one: how they find each other, and how one learns that another is gone.

    for rank, environment in enumerate(rank_environments(2)): ...    # start a process with each

In each process `Peers` are the others on this machine. One that is killed takes the others with it.
Over gloo their exchange fails. NCCL says nothing: it waits for ever, in C++, where no exception and
no handler of a signal gets through; so a thread ends the process then. Paddle's launcher ends them
within seconds too, without a reason: they have to say before that what has happened.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.processes import exit_text
from ppcls_core.runtime.threads import max_threads

# Until a process that has not ended by itself tells of a killed one; the launcher needs 3 or more.
TELL_SECONDS = 1.0
# Until this one ends: of an exchange with a process that is gone, and of whatever else it does
# after another was killed, as to write a checkpoint.
HANG_SECONDS, ALONE_SECONDS = 5.0, 30.0
_POLL_SECONDS = 0.02
# What whoever stops a training sends to all of its processes: they say so themselves.
_ASKED = (-signal.SIGTERM, -signal.SIGINT)


def rank_environments(num: int, first_gpu: int = 0) -> list[dict[str, str]]:
    """The variables of each of `num` processes on this machine; see `environments_of`."""
    master, *endpoints = free_addresses(num + 1)
    return environments_of([endpoints], master, 0, first_gpu)


def environments_of(
    endpoints: Sequence[Sequence[str]], master: str, number: int, first_gpu: int = 0
) -> list[dict[str, str]]:
    """The variables of each process of host `number`, as `paddle.distributed.launch` sets them.

    `endpoints`: HOST:PORT of each process, host by host; `master`: a free address of the first. The
    processes of a host share the threads that this process has. Each has a GPU, by its number among
    the visible ones, from `first_gpu` on, or where there is none they talk over gloo.
    """
    own, before = endpoints[number], sum(map(len, endpoints[:number]))
    every = [one for host in endpoints for one in host]
    common = {
        "OMP_NUM_THREADS": str(max(1, max_threads() // len(own))),
        "PADDLE_MASTER": master,
        "PADDLE_TRAINERS_NUM": str(len(every)),
        "PADDLE_GLOBAL_SIZE": str(len(every)),
        "PADDLE_LOCAL_SIZE": str(len(own)),
        "PADDLE_NNODES": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(every),
    }
    on_gpu = num_gpus() > 0
    return [
        {
            **common,
            "PADDLE_TRAINER_ID": str(before + rank),
            "PADDLE_GLOBAL_RANK": str(before + rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
            **(
                {"FLAGS_selected_gpus": str(first_gpu + rank)}
                if on_gpu
                else {"PADDLE_DISTRI_BACKEND": "gloo"}
            ),
        }
        for rank, endpoint in enumerate(own)
    ]


def free_addresses(num: int, host: str = "127.0.0.1") -> list[str]:
    """Addresses of ports of this machine, on `host`, that nobody listens on at the moment."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in bound:
            one.bind((host, 0))
        return [f"{host}:{one.getsockname()[1]}" for one in bound]


def process_place() -> tuple[str, int]:
    """(what tells machines and containers apart, id of this process there)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}", os.getpid()


class Peers:
    """The other processes of this machine, by rank, and the one that started this one.

    `start_guard` makes this process end with them.
    """

    def __init__(self, pids: Mapping[int, int]) -> None:
        self.num, self._launcher = len(pids), os.getppid()
        self._exchange_began: float | None = None
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

    def start_guard(self) -> None:
        """From now on, tell on standard error of those that are killed, and end with them.

        With status 2, and a reason: HANG_SECONDS after one of them has ended if this process is in
        an `exchange`, ALONE_SECONDS after one was killed wherever it is.
        """
        threading.Thread(target=self._guard, daemon=True).start()

    @property
    def are_abandoned(self) -> bool:
        """Whether the launcher has died: it ends without a word to its processes when killed."""
        return os.getppid() != self._launcher

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """A block that waits for all of them, and for the device."""
        self._exchange_began = time.monotonic()
        try:
            yield
        finally:
            self._exchange_began = None

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

    def _guard(self) -> None:
        lost_at, is_told = None, False
        while True:
            time.sleep(_POLL_SECONDS)
            statuses, now = self.ended().values(), time.monotonic()
            if not statuses and not self.are_abandoned:
                continue
            lost_at = lost_at or now
            killed = any(s is not None and s < 0 and s not in _ASKED for s in statuses)
            if killed and not is_told and now - lost_at > TELL_SECONDS:
                is_told = True
                _say(f"another process of this training has ended: {self.text()}")
            began = self._exchange_began
            hangs = began is not None and now - max(began, lost_at) > HANG_SECONDS
            if hangs or (killed and now - lost_at > ALONE_SECONDS):
                who = self.text() or "the launcher"
                _say(
                    f"this process of the training waits in vain for one that has ended ({who}), "
                    "and so ends too. Run the same command to go on from the checkpoint"
                )
                sys.stdout.flush()
                os._exit(2)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _exit_status(pid: int) -> int | None:
    """Status of a process that has ended; None when its parent has asked for it already."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None
