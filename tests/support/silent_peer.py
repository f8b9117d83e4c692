"""Two processes of which the second is killed and its connection stays open, as silent as NCCL's.

Over gloo a process that is killed closes its connections, and the exchange of the others fails; a
child of it that has them too keeps them open.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

import numpy as np

from ppcls_core.engine.distributed import join
from ppcls_core.runtime.processes import Parent

HELD_SECONDS = 20


def start(rank: int) -> Callable[[None, Parent], list[float]]:
    """The function that answers with the sum of an exchange, which the second does not reach."""

    def answer(request: None, parent: Parent) -> list[float]:
        world = join()
        assert world.sum(np.ones(1)).tolist() == [2.0]
        if rank == 1:
            if os.fork() == 0:
                os.close(int(sys.argv[1]))  # the pipe to the parent, which shall see the death
                time.sleep(HELD_SECONDS)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return world.sum(np.ones(1)).tolist()

    return answer
