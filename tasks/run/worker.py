"""One of the processes of a training stage, as processes.py starts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ppcls_core.engine.distributed import join
from ppcls_core.runtime.processes import Parent
from tasks.dag import stage_named
from tasks.run.stage import Outcome, Work


@dataclass(frozen=True)
class ParentMonitor:
    """The Monitor of the process that started the stage; only the first process reports."""

    parent: Parent
    reports: bool

    @property
    def stop_requested(self) -> bool:
        return self.parent.stop_requested

    def progress(self, done: int, total: int, unit: str) -> None:
        self._report("progress", done, total, unit)

    def metrics(self, values: Mapping[str, float]) -> None:
        self._report("metrics", dict(values))

    def note(self, message: str) -> None:
        self._report("note", message)

    def _report(self, *values: object) -> None:
        if self.reports:
            self.parent.report(*values)


def open_stage(work: Work) -> Callable[[None, Parent], Outcome]:
    """The child's function: it runs the stage of `work` once and gives its outcome."""

    def answer(request: None, parent: Parent) -> Outcome:
        monitor = ParentMonitor(parent, reports=join().is_first)
        return stage_named(work.stage).run(replace(work, monitor=monitor))

    return answer
