"""Several processes that train or evaluate as one, started by Paddle's launcher.

Each has a device: a GPU (NCCL), or some threads of the CPU (gloo). All hold the same weights and
take the same steps, each on its part of the batch. What one alone knows (an image that cannot be
read, a request to stop) is told to all before anyone acts on it, so that none waits for another
that does something else.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

from data_catalog.base.config import UserError
from ppcls_core.runtime.monitor import ignore_sigterm_when
from ppcls_core.runtime.paddle import ERRORS, reason_of
from ppcls_core.runtime.processes import PeerEnded
from ppcls_core.runtime.ranks import Peers, process_place

PEER_SECONDS = 2.0  # for a process to end whose connection is broken
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among `size`; a world of one does not communicate.

    All processes call the same methods in the same order. Each that communicates raises UserError
    when another process has ended.
    """

    rank: int = 0
    size: int = 1
    peers: Peers | None = None  # those on this machine, in a world of several

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and tells the user."""
        return self.rank == 0

    @property
    def is_abandoned(self) -> bool:
        """Whether the launcher has died: it ends without a word to its processes when killed."""
        return self.peers is not None and self.peers.are_abandoned

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sums over the processes of `values`, which have one shape in all; in float64."""
        if self.size == 1 or not values.size:
            return values
        total = paddle.to_tensor(values, "float64")
        with self._connection():
            dist.all_reduce(total)
            return total.numpy()

    def add(self, values: paddle.Tensor) -> None:
        """Make `values` their sums over the processes; on a GPU nothing is waited for."""
        if self.size > 1:
            with self._connection():
                dist.all_reduce(values)

    def read(self, added: Callable[[], T]) -> T:
        """The result of `added`, which waits for sums that `add` has begun."""
        if self.size == 1:
            return added()
        with self._connection():
            return added()

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is true in some process."""
        return (self.sum(np.array(flags, np.float64)) > 0).tolist()

    def gather(self, value: T) -> list[T]:
        """The value in each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[T] = []
        with self._connection():
            dist.all_gather_object(values, value)
        return values

    def union(self, own: dict[str, T]) -> dict[str, T]:
        """The entries in all processes, by key."""
        if self.size == 1:
            return own
        return dict(sorted(entry for part in self.gather(own) for entry in part.items()))

    def follow_first(self, tensors: Iterable[paddle.Tensor]) -> None:
        """Give the tensors the values that they have in the first process."""
        for tensor in tensors if self.size > 1 else ():
            sent = paddle.to_tensor(tensor.numpy())  # on the device: Adam has some on the CPU
            with self._connection():
                dist.broadcast(sent, 0)
            set_in_place(tensor, sent.numpy())

    def average_gradients(self, parameters: Sequence[paddle.Tensor]) -> None:
        """Make each gradient its mean over the processes.

        After the backward pass, not during it as paddle.DataParallel does. Over gloo that one
        aborts the process, in C++, when a peer is lost; and a process that fails before its
        backward pass could not tell those that already wait in theirs. The price is the time to
        send the gradient, by reckoning 1 to 5 % of a step on the GPUs of one machine.
        """
        if self.size > 1:
            with self._connection():
                fused_allreduce_gradients(list(parameters), None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """At the end of the block all wait for each other; the UserError of one becomes all's."""
        if self.size == 1:
            yield
            return
        message = None
        try:
            yield
        except UserError as error:
            message = str(error)
        if any(self.any(message is not None)):
            raise UserError(next(filter(None, self.gather(message))))

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Around what needs all processes, up to where its result has been read."""
        peers = self.peers  # None while they are not known yet
        try:
            with peers.exchange() if peers is not None else nullcontext():
                yield
        except ERRORS as error:
            # The connection of a process that is killed breaks before the process has ended.
            ended = peers.text(PEER_SECONDS) if peers is not None else ""
            reason = reason_of(error)
            if not ended and peers is not None and peers.num == self.size - 1:
                raise UserError(
                    f"the processes of this training cannot exchange what they know: {reason}. "
                    "None of them has ended; `ppcls doctor` tries the connection between devices"
                ) from error
            raise PeerEnded(
                f"another process of this training has ended{': ' if ended else ''}{ended}, and so "
                "does this one; where the other says no reason it was killed, or memory was "
                f"short. Run the same command to go on. (Paddle: {reason})"
            ) from error


class Ahead(Iterator[T]):
    """`items`, `num` of them taken before they are asked for.

    With 2 a process knows that it cannot load a batch while it has two in hand, and tells the
    others beside the figures of a step. They learn of it when they read those, a step later, and
    none has begun the step that one of them cannot take. With 0 the UserError is raised at once.
    """

    def __init__(self, items: Iterator[T], num: int) -> None:
        self._items, self.error = items, ""  # why there are no more
        self._held = deque(islice(items, num))

    def __next__(self) -> T:
        try:
            self._held.extend(islice(self._items, 1))
        except UserError as error:
            if not self._held:
                raise
            self.error = str(error)
        if not self._held:
            raise StopIteration
        return self._held.popleft()


def set_in_place(tensor: paddle.Tensor, values: np.ndarray) -> None:
    """Set the values of `tensor` where it lies: Paddle keeps Adam's powers of beta on the CPU, and
    `set_value` of an array would move them to the GPU, where other bits come of them."""
    tensor.set_value(paddle.to_tensor(values, place=tensor.place))


_world = World()


def world() -> World:
    """The world of this process: alone until it has joined one."""
    return _world


def join() -> World:
    """Connect with the processes that Paddle's launcher started beside this one, if any.

    The launcher sends SIGTERM to all when one has ended. It is ignored then: this process is about
    to find out in its next exchange, and has to say so.
    """
    global _world
    size = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if size > 1:
        with redirect_stderr(io.StringIO()):  # Paddle lists flags that nobody has set
            dist.init_parallel_env()
        _world = World(dist.get_rank(), size)
        places, here = _world.gather(process_place()), process_place()
        near = {r: pid for r, (place, pid) in enumerate(places) if (place, pid) != here}
        near = {r: pid for r, pid in near.items() if places[r][0] == here[0]}
        peers = Peers(near)
        peers.start_guard()
        _world = replace(_world, peers=peers)
        ignore_sigterm_when(lambda: bool(peers.ended()))
    return _world
