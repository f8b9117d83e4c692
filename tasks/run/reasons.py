"""Why a stage has to run: in the same words in its log, in `ssld status` and in a notebook."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from tasks.run.session import Lookup, Session
from tasks.run.stage import Stage
from tasks.run.store import Result


class Reason(NamedTuple):
    """Why a stage has to run: in a word, and in detail."""

    state: Literal["damaged", "partial", "stale", "missing"]
    detail: str


def reason_to_run(session: Session, stage: Stage, found: Lookup) -> Reason:
    """Why `stage` has to run, of which the store has `found`, no intact result."""
    if found.damage:
        return Reason("damaged", found.damage)
    if found.so_far:
        return Reason("partial", f"stopped at {found.so_far}; goes on from what is saved")
    if previous := previous_run(session, stage):
        return Reason("stale", _changes(session, stage, previous))
    return Reason("missing", "not run yet")


def previous_run(session: Session, stage: Stage) -> Result | None:
    """The last finished run of `stage` for this recipe, if it is still there."""
    key = session.store.last(session.recipe.name).get(stage.name)
    return session.store.load(stage.name, key) if key else None


def _changes(session: Session, stage: Stage, previous: Result) -> str:
    """How what the recipe asks of a stage differs from its `previous` run for this recipe, or from
    that of all runs from which it differs least."""
    runs = [previous, *session.store.results(stage.name)]
    return "; ".join(min((list(_differences(session, stage, run)) for run in runs), key=len))


def _differences(session: Session, stage: Stage, previous: Result) -> Iterator[str]:
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
