"""The processes that run the trials of a search; `ppcls search` and the flow `ssld/search` both ask
`Workers.trial` for one trial after another."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from contextvars import copy_context
from queue import SimpleQueue
from typing import Self, TypeVar

from data_catalog.base.errors import UserError
from data_catalog.base.threads import map_threads
from ppcls_core.jobs.tuning.rows import TrialRow
from ppcls_core.jobs.tuning.study import MAX_ATTEMPTS, HyperSearch
from ppcls_core.runtime.monitor import StopFlag
from ppcls_core.runtime.processes import Child, gather, ignore
from ppcls_core.runtime.threads import max_threads

R = TypeVar("R")


class Workers:
    """`jobs` processes, each with its share of the cores, or a GPU; a context manager.

    `log` is told of a process that was killed: another takes its place.
    """

    def __init__(
        self, search: HyperSearch, jobs: int, stop: StopFlag, log: Callable[[str], None]
    ) -> None:
        self._search, self._jobs, self._stop, self._log = search, jobs, stop, log
        self._free: SimpleQueue[tuple[int, Child]] = SimpleQueue()

    def __enter__(self) -> Self:
        for number in range(self._jobs):
            self._free.put((number, self._start(number)))
        return self

    def __exit__(self, *raised: object) -> None:
        while not self._free.empty():
            self._free.get()[1].close()

    def trials(self, number: int, run: Callable[[], R | None]) -> Iterator[R]:
        """The results of `run`, which calls `trial`, called `number` times or until one is None.

        As many run at once as there are processes, in threads that have the caller's context.
        """
        if number == 0:
            return
        contexts = (copy_context() for _ in range(number))  # Prefect's run is in it
        results = map_threads(lambda own: own.run(run), contexts, self._jobs, self._jobs)
        with closing(results):
            for result in results:
                if result is None:
                    break
                yield result

    def trial(self) -> TrialRow | None:
        """Run a trial in a free process, which is waited for; None when none is left.

        Raises Interrupted: the stop flag was set, and the training has saved its work; UserError:
        the storage is of another search, or processes are killed again and again.
        """
        number, child = self._free.get()
        try:
            for deaths in itertools.count(1):
                try:
                    return gather([child], None, ignore, lambda: self._stop.is_set)[0]
                except UserError as error:
                    if not child.has_ended or self._stop.is_set or deaths > MAX_ATTEMPTS:
                        raise
                    self._log(f"{error}; its trial is tried again")
                    child.close()
                    child = self._start(number)
        finally:
            self._free.put((number, child))

    def _start(self, number: int) -> Child:
        return Child(
            "ppcls_core.jobs.tuning.trial:start_trials",
            (self._search, number),
            name=f"worker process {number}",
            remedy="what was finished is kept",
            environment={"OMP_NUM_THREADS": str(max(1, max_threads() // self._jobs))},
        )
