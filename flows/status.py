"""The state of every stage: done, running, stale, missing or partial, and why; runs nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.dag import STAGES
from tasks.run.counts import described, shown_counts
from tasks.run.reasons import previous_run, reason_to_run
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Result


@dataclass(frozen=True)
class StageStatus:
    """State of one stage: done, nothing to do, running, partial, stale, damaged, missing; `detail`
    says how far or why."""

    stage: str
    state: str
    detail: str


def statuses(session: Session) -> Iterator[StageStatus]:
    """The state of every stage of the session's recipe, in order."""
    for stage in STAGES.values():
        yield StageStatus(stage.name, *_standing(session, stage))


def _standing(session: Session, stage: Stage) -> tuple[str, str]:
    """State and detail of `stage`; what is done of it is so for the session too."""
    if waits_for := [name for name in stage.upstream if name not in session.done]:
        state = "stale" if previous_run(session, stage) else "missing"
        return state, f"waits for {', '.join(waits_for)}"
    found = session.find(stage)
    if found.result:
        session.done[stage.name] = found.result  # not `accept`, which writes
        state = "nothing to do" if found.result.is_empty else "done"
        return state, _summary(found.result, session.done)
    if session.store.is_running(stage.name, found.key):
        return "running", found.so_far or "begins"
    return reason_to_run(session, stage, found)


def _summary(result: Result, done: Mapping[str, Result]) -> str:
    if result.is_empty:
        return ""
    counts = described(shown_counts(result, done))
    return f"{counts}  ({result.record['seconds']:.1f} s)" if counts else ""
