"""`ssld run`: the flow in this process, on a running server or else a temporary one."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from data_catalog.base.config import UserError
from flows.services import is_healthy, prepare
from ppcls_core.runtime.processes import Child
from tasks.dag import OF_STUDENT, following, needed_for, stage_named
from tasks.recipe import RECIPES, load_recipes, recipe_path
from tasks.run.session import Session
from tasks.run.store import Store

STOP_SECONDS = 10  # for the temporary server to write what it has received
# Variables of the temporary server, as Prefect sets them for its own.
TEMPORARY = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


def run_recipe(
    recipe: str, settings: Sequence[str], only: str | None, from_: str | None, console: Console
) -> int:
    """Run `recipe` and print what each stage did; the exit status."""
    resolved = load_recipes(recipe, settings)  # mistakes are told before Prefect takes its seconds
    until = stage_named(only).name if only else "report"
    refresh = [only] if only else [s.name for s in following(from_)] if from_ else []
    prepare()
    api = _reachable_server()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.ssld import ssld

    with temporary_settings({PREFECT_API_URL: api}):
        parameters = (_findable(recipe), list(settings), until, refresh)
        state = ssld(*parameters, return_state=True)
    if not state.is_completed():
        console.print(f"[red]{state.name.lower()}:[/] ", end="")
        console.print(state.message, markup=False)
        return 1
    sessions = [Session(each, Store.default()) for each in resolved]
    for number, session in enumerate(sessions):
        if len(sessions) > 1:
            console.print(f"[bold]{session.recipe.name}[/]")
        print_results(session, until, console, of_student_alone=number > 0)
    return 0


def _findable(recipe: str) -> str:
    """`recipe` as a deployment's engine finds it too, which runs in another folder."""
    path = recipe_path(recipe)
    return path.stem if path == RECIPES / path.name else str(path)


def _reachable_server() -> str:
    """API of the active profile's server if it answers, else of a temporary one.

    Raises:
        UserError: the temporary one does not start.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    api = PREFECT_API_URL.value()
    if api and is_healthy(api):
        return api
    child = Child(
        "flows.temporary_server:open_server",
        name="Prefect's temporary server",
        environment={**TEMPORARY, "PREFECT_API_URL": ""},
        with_paddle=False,
    )
    child.send(None)
    atexit.register(_stop_server, child)  # after Prefect's own, which send the last events
    import flows.ssld  # noqa: F401 - meanwhile

    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    if not child.pipe.poll(seconds):
        raise UserError(
            f"Prefect's temporary server did not start within {seconds} s; set "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher, or start one with `ssld up`"
        )
    kind, value = child.receive()
    if kind == "error":
        raise value
    if kind == "answer":
        raise UserError("Prefect's temporary server did not start; its messages are above")
    return value[0]


def _stop_server(child: Child) -> None:
    child.stop()
    child.pipe.poll(STOP_SECONDS)  # it answers when it has stopped, or died
    child.close()


def _described(counts: Mapping[str, int]) -> Iterator[str]:
    """What became of the images, rejections last and with their reasons."""
    shown = {
        name: number for name, number in counts.items() if number and name not in ("in", "out")
    }
    reasons = {name: n for name, n in shown.items() if name.startswith("rejected: ")}
    yield from (f"{n:,} {name}" for name, n in shown.items() if name not in reasons)
    if reasons:
        listed = ", ".join(
            f"{n:,} {name.removeprefix('rejected: ')}" for name, n in reasons.items()
        )
        yield f"{sum(reasons.values()):,} rejected ({listed})"


def print_results(
    session: Session, until: str, console: Console, of_student_alone: bool = False
) -> None:
    """The table of what each stage did, and the accuracies where they are known."""
    from tasks.stages.report import accuracies, stage_row

    table = Table("stage", box=None, pad_edge=False, header_style="bold")
    for name in ("in", "out", "seconds", "images/s"):
        table.add_column(name, justify="right")
    table.add_column("what it did")
    for stage in needed_for(until):
        result, _ = session.find(stage)
        assert result is not None
        session.accept(result)
        if of_student_alone and stage.name not in OF_STUDENT:
            continue
        row = stage_row(result)
        rate = f"{row.images_per_second:,.1f}" if row.images_per_second else ""
        note = ", ".join(_described(result.counts))
        numbers = (f"{n:,}" if n else "" for n in (row.images_in, row.images_out))
        table.add_row(row.name, *numbers, f"{row.seconds:,.1f}", rate, note)
    console.print(table)
    if "evaluate" in session.done:
        console.print()
        for row in accuracies(session.done["evaluate"]):
            gain = "" if row.gain is None else f"  {row.gain:+.1f} points over the baseline"
            console.print(f"{row.label:<10}{row.top1:7.1%} top-1 at {row.resolution} px{gain}")
    if "report" in session.done:
        console.print(f"\nreport: {session.done['report'].path('report.html')}\n")
