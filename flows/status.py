"""The state of every stage: done, running, stale, missing or partial, and why; runs nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.dag import STAGES
from tasks.run.counts import described, shown_counts
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
        waits_for = [name for name in stage.upstream if name not in session.done]
        previous = previous_run(session, stage)
        if waits_for:
            detail = f"waits for {', '.join(waits_for)}"
            yield StageStatus(stage.name, "stale" if previous else "missing", detail)
            continue
        result, reason = session.find(stage)
        if result is not None:
            session.done[stage.name] = result  # not `accept`, which writes
            state = "nothing to do" if result.is_empty else "done"
            yield StageStatus(stage.name, state, _summary(result, session.done))
        else:
            yield _unfinished(session, stage, previous, reason)


def _unfinished(
    session: Session, stage: Stage, previous: Result | None, reason: str
) -> StageStatus:
    if session.store.load(stage.name, session.key(stage)) is not None:
        return StageStatus(stage.name, "damaged", f"{reason}; runs again")
    so_far = session.progress(stage)
    if session.store.is_running(stage.name, session.key(stage)):
        return StageStatus(stage.name, "running", so_far or "begins")
    if so_far:
        return StageStatus(stage.name, "partial", f"stopped at {so_far}")
    if previous is None:
        return StageStatus(stage.name, "missing", reason)
    return StageStatus(stage.name, "stale", changes(session, stage, previous))


def previous_run(session: Session, stage: Stage) -> Result | None:
    """The last finished run of `stage` for this recipe, if it is still there."""
    key = session.store.last(session.recipe.name).get(stage.name)
    return session.store.load(stage.name, key) if key else None


def changes(session: Session, stage: Stage, previous: Result) -> str:
    """How what the recipe asks of a stage differs from its `previous` run for this recipe, or from
    that of all runs from which it differs least."""
    runs = [previous, *session.store.results(stage.name)]
    return "; ".join(min((list(_changes(session, stage, run)) for run in runs), key=len))


def _changes(session: Session, stage: Stage, previous: Result) -> Iterator[str]:
    """Differences between a finished run and what the recipe asks for now."""
    if previous.version != stage.version:
        yield f"code version {previous.version} -> {stage.version}"
    before, now = flat(previous.settings), flat(stage.own_settings(session.recipe))
    left_out = now.keys() & set(session.recipe.left_out)
    for name in sorted(before.keys() | now.keys()):
        if name in left_out:
            yield f"{name}: not on this machine, `ssld run` downloads them"
        elif before.get(name) != now.get(name):
            yield f"{name}: {before.get(name)} -> {now.get(name)}"
    inputs = session.inputs_of(stage)
    for name in sorted(previous.inputs.keys() | inputs.keys()):
        if name not in previous.inputs:
            yield f"input {name} added"
        elif name not in inputs:
            yield f"input {name} removed"
        elif previous.inputs[name] != inputs[name]:
            yield f"input {name} changed"


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted path."""
    if not isinstance(value, dict):
        return {path: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= flat(inner, f"{path}.{name}" if path else name)
    return leaves


def _summary(result: Result, done: Mapping[str, Result]) -> str:
    if result.is_empty:
        return ""
    counts = described(shown_counts(result, done))
    return f"{counts}  ({result.record['seconds']:.1f} s)" if counts else ""
