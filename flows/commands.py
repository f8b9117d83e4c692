"""The commands of `ssld`."""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted, duration
from data_catalog.images.columns import Images
from data_catalog.recipes import MANIFEST, RECIPES, known_recipes, recipe_path
from flows import services
from flows.api import reachable_server
from flows.status import statuses
from ppcls_core.cli.common import log
from ppcls_core.cli.lazy import OVERRIDE
from ppcls_core.report.intervals import is_noise
from ppcls_core.report.model import Overlap, percent, worse
from ppcls_core.runtime.cluster import certificate
from ppcls_core.runtime.monitor import STOPPED
from tasks.dag import OF_STUDENT, STAGES, following, needed_for, stage_named
from tasks.recipe import STUDENTS, digest_of_recipes, load_recipes
from tasks.recipe import Recipe as RecipeConfig
from tasks.run.counts import NUM_TAKEN_OVER, TAKEN_OVER, are_all_in, described, shown_counts
from tasks.run.processes import trainings
from tasks.run.reasons import reason_to_run
from tasks.run.session import Session
from tasks.run.stage import Stage
from tasks.run.store import Store
from tasks.stages.data import check_teachers, checked_data
from tasks.steps import doubts, doubts_of_settings, steps_of

PASSWORD = "SSLD_PASSWORD"  # variable
_FLOW = "flows.ssld:ssld"  # imports Prefect
FAR = 10  # points of the student under its teacher from which a remedy is told
_STOPPED = 130  # exit status, as a shell has it of a program that Ctrl-C ended
console = Console(emoji=False, highlight=False, soft_wrap=True)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    """What the shell offers for a word that begins so."""
    return [name for name in names if name.startswith(incomplete)]


def _recipes(incomplete: str) -> list[str]:
    return _beginning(incomplete, known_recipes())


def _stages(incomplete: str) -> list[str]:
    return _beginning(incomplete, STAGES)


Recipe = Annotated[
    str,
    typer.Argument(
        help="A recipe: its file, or its name if it comes with the program or has run.",
        autocompletion=_recipes,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(*OVERRIDE, help="Override a setting: a.b=value, one or several."),
]


def run(
    recipe: Recipe,
    only: Annotated[
        str | None,
        typer.Option(
            help="Run until this stage, and stop: what it needs where that is not done, and it "
            "again.",
            autocompletion=_stages,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", help="Run this stage and all that follow again.", autocompletion=_stages
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """Run a recipe; what is done is not run again."""
    if only and from_:
        raise UserError("--only and --from exclude each other: give one")
    resolved = load_recipes(recipe, settings or [])  # mistakes before Prefect takes its seconds
    until, start = stage_named(only).name if only else "report", time.monotonic()
    refresh = [only] if only else [s.name for s in following(from_)] if from_ else []
    stages, begun = needed_for(until), time.time()
    # Mistakes in the images too; students have theirs in common.
    with checked_data(resolved[0]) as images:
        sessions = [Session(each, Store.default()) for each in resolved]
        must_run = refresh or not all(_are_done(session, stages) for session in sessions)
        if must_run:
            _check_before(sessions, stages, images)
            if not refresh or not trainings(resolved[0]).keys().isdisjoint(refresh):
                _print_steps(resolved, images)
            ran = _run_flow(_findable(recipe), settings or [], until, refresh)
            if ran != digest_of_recipes(resolved):
                resolved = _edited(recipe, settings or [], ran)
            sessions = [Session(each, Store.default()) for each in resolved]
            for session in sessions:
                _check_done(session, stages)
        else:
            console.print("all of it is done: nothing was run again", style="dim")
    for number, session in enumerate(sessions):
        if len(sessions) > 1:
            console.print(f"[bold]{session.recipe.name}[/]")
        of_student = OF_STUDENT if number else None
        shown = [s for s in stages if not of_student or s.name in of_student]
        _print_stages(session, shown, begun)
        _print_results(session)
    if must_run:
        took = duration(time.monotonic() - start)
        console.print(f"in all {took} by the clock, with what lies between stages", style="dim")


def _are_done(session: Session, stages: Iterable[Stage]) -> bool:
    """Whether `session` has a result of each; it accepts them up to the first that is missing."""
    for stage in stages:
        if not (result := session.find(stage).result):
            return False
        session.accept(result)
    return True


def _check_done(session: Session, stages: Iterable[Stage]) -> None:
    """Accept the result of each, which have just been made. Raises UserError: one is not there."""
    if not _are_done(session, stages):
        stage = next(each for each in stages if each.name not in session.done)
        why = reason_to_run(session, stage, session.find(stage)).detail
        raise UserError(
            f"{session.store.root}: results were removed or altered while others were made, or "
            f"what they are made of was changed ({stage.name}: {why}); run again: what is left is "
            "not made again"
        )


def _edited(recipe: str, settings: list[str], ran: str) -> list[RecipeConfig]:
    """The recipes that have run, of the digest `ran`: the flow reads the file again."""
    resolved = load_recipes(recipe, settings)
    _print_notes([f"{recipe} was edited as this began: what ran, and is shown, is as it is now"])
    if digest_of_recipes(resolved) != ran:
        raise UserError(f"{recipe}: was edited again: run again; what is done is not run again")
    return resolved


def _check_before(
    sessions: Sequence[Session], stages: Iterable[Stage], images: Mapping[str, Images]
) -> None:
    """Raise UserError if the teacher's files cannot be used, or another run is at the first of
    `stages` that is not done."""
    if "teacher" not in sessions[0].done:  # else its files are those that it took
        check_teachers(sessions[0].recipe, images["val"].classes)
    for session in sessions:
        stage = next((each for each in stages if each.name not in session.done), None)
        if stage and session.store.is_running(stage.name, session.key(stage)):
            with session.store.lock(stage.name, session.key(stage)):  # its error says by whom
                pass


def _run_flow(*parameters: object) -> str:
    """Run the flow; the digest of the recipes that it read. End this program where it fails."""
    services.prepare()
    api = reachable_server()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        state = resolve_name(_FLOW)(*parameters, return_state=True)
    if state.message == STOPPED:  # which the log has told
        sys.exit(_STOPPED)
    if not state.is_completed():
        is_logged = resolve_name("flows.dashboard:is_logged")(state.message)
        console.print(f"[red]{state.name.lower()}:[/] ", end="")
        console.print(
            "see above; what is done is kept" if is_logged else state.message, markup=False
        )
        sys.exit(1)
    return state.result()


def _print_steps(recipes: Iterable[RecipeConfig], images: Mapping[str, Images]) -> None:
    """The steps of the trainings on `images` by split, and what is doubtful about them; of further
    students what is not the first one's too."""
    numbers, told = {name: len(found) for name, found in images.items()}, set[str]()
    if are_all_in(images["pool"], images["train"]):
        numbers["pool"] = 0
    for number, recipe in enumerate(recipes):
        steps = steps_of(recipe, numbers, len(images["train"].classes))
        shown = [each for each in steps if each.stage in STUDENTS or number == 0]
        console.print(f"{recipe.name}: steps (epochs x steps): {'; '.join(map(str, shown))}")
        notes = [note for note in doubts(recipe, steps) if note not in told]
        _print_notes(notes)
        told.update(notes)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        console.print("[yellow]note:[/] ", end="")
        console.print(note, markup=False)


def status(
    recipe: Recipe,
    settings: Settings = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and compare its sha256.")
    ] = False,
) -> None:
    """Say for each stage whether it is done, running, stale (and why), missing, damaged or
    partial."""
    recipes = load_recipes(recipe, settings or [], lacking="leave published")
    for each in recipes:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.title = each.name if len(recipes) > 1 else None
        for column in ("stage", "state", "detail"):
            table.add_column(column, overflow="fold")
        colours = {
            "done": "green",
            "running": "cyan",
            "partial": "yellow",
            "stale": "yellow",
            "damaged": "red",
        }
        for row in statuses(Session(each, Store.default(), deep=deep)):
            state = f"[{colours.get(row.state, 'dim')}]{row.state}[/]"
            table.add_row(row.stage, state, row.detail)
        console.print(table)
        _print_notes(doubts_of_settings(each))


def up(
    port: Annotated[int, typer.Option(help="Port of the server and dashboard.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(
            help="Where the server keeps its records: postgresql+asyncpg://USER:PASSWORD@HOST/NAME."
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine on which other hosts may join. The password is that in "
            f"{PASSWORD}, or asked for."
        ),
    ] = None,
) -> None:
    """Start server, workers and deployments; print the dashboard's address."""
    shared = services.Share(share, _password()) if share else None
    address = services.up(port, console.print, database, shared)
    console.print(f"dashboard: {address}" + (", user ssld" if shared else ""))
    if share:
        console.print(f"for each host: copy {certificate()} to the same place there, then")
        console.print(f"  ssld worker --join {share}")
    console.print("next: prefect deployment run ssld/full")
    console.print(
        "  (of the demo; of a recipe of yours: --param recipe=$PWD/my.yaml, its whole path)"
    )


def _password() -> str:
    """The password of the services: that of the environment, else it is asked for."""
    return os.environ.get(PASSWORD) or typer.prompt("password", hide_input=True)


def worker(
    join: Annotated[str, typer.Option(help="Address of the head, as given to `ssld up --share`.")],
    root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD=HERE",
            help="Images in the folder HEAD on the head lie in HERE here. Repeatable.",
        ),
    ] = None,
) -> None:
    """Make shards for the head of a cluster until it is stopped, by Ctrl-C or SIGTERM."""
    pairs = [pair.partition("=") for pair in root or ()]
    for pair, (there, _, here) in zip(root or (), pairs, strict=True):
        if not there or not here:
            raise UserError(f"--root: got {pair!r}, expected HEAD_FOLDER=FOLDER_HERE")
    resolve_name("tasks.run.hosts:join")(join, {there: here for there, _, here in pairs}, log)


def down() -> None:
    """Cancel what runs (it saves its work), then stop workers and server."""
    services.down(console.print)


def _findable(recipe: str) -> str:
    """`recipe` as a deployment's engine finds it too, which runs in another folder."""
    path = recipe_path(recipe)
    return path.stem if path == RECIPES / path.name else str(path)


def _gain(points: float, interval: Sequence[float]) -> str:
    """Points with their paired 95 % interval, and whether that leaves the sign open."""
    low, high = interval
    verdict = "points, within noise, over" if is_noise((low, high)) else "points over"
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f}) {verdict}"


def _print_stages(session: Session, stages: Iterable[Stage], begun: float) -> None:
    """The table of what each of `stages` did, and which were done when this command began."""
    report, earlier = resolve_name("tasks.stages.report"), list[str]()  # imports Paddle
    table = Table("stage", box=None, pad_edge=False, header_style="bold")
    for name in ("in", "out", "seconds", "images/s"):
        table.add_column(name, justify="right")
    table.add_column("what it did")
    for stage in stages:
        result = session.done[stage.name]
        row = report.stage_row(result, session.done)
        rate = f"{row.images_per_second:,.1f}" if row.images_per_second else ""
        counts = shown_counts(result, session.done)
        note = described({name: n for name, n in counts.items() if name not in ("in", "out")})
        if taken := result.metrics.get(TAKEN_OVER):
            origin = "/".join(Path(taken).parts[-2:])
            num = result.metrics.get(NUM_TAKEN_OVER)
            what = counted(num, "label") if num else "search"
            note = ", ".join(filter(None, [note, f"{what} taken over from {origin}"]))
        numbers = (f"{n:,}" if n else "" for n in (row.images_in, row.images_out))
        table.add_row(row.name, *numbers, f"{row.seconds:,.1f}", rate, note)
        if result.path(MANIFEST).stat().st_mtime < begun:
            earlier.append(row.name)
    console.print(table)
    if earlier:
        console.print(
            f"made, in these seconds, by an earlier run: {', '.join(earlier)}", style="dim"
        )


def _print_results(session: Session) -> None:
    """The accuracies where they are known, and where the results lie."""
    report = resolve_name("tasks.stages.report")
    if "evaluate" in session.done:
        console.print()
        for row in report.accuracies(session.done["evaluate"]):
            size = f" at {row.resolution} px" if row.resolution else ""
            gain = "" if row.gain is None else f"  {_gain(row.gain, row.gain_range)} the baseline"
            loss = ""
            if row.change is not None and row.change < 0:
                noise = ", within noise" * is_noise(row.change_range)
                loss = f"; [yellow]{-row.change:.1f} less than the stage before{noise}[/]"
            console.print(f"{row.label:<10}{percent(row.top1):>6} % top-1{size}{gain}{loss}")
    if clean := report.clean_accuracies(session.done) if "evaluate" in session.done else ():
        found = session.done["overlap"].metrics
        overlap = Overlap(found["labelled"], found["val"], found["removed"])
        remedy = "overlap.remove=true leaves such images out"
        what = "left out of training" if overlap.removed else remedy
        console.print(
            f"\n[yellow]{overlap}; {what}[/]; top-1 on the other validation images: "
            + ", ".join(f"{row.label} {percent(row.clean_top1)} %" for row in clean)
        )
    if "export" in session.done:
        stage = session.done["export"].metrics["stage"]
        rows = report.accuracies(session.done["evaluate"]) if "evaluate" in session.done else ()
        by_label = {row.label: row for row in rows}
        student, teacher = by_label.get(stage), by_label.get("teacher")
        if student and (loss := worse(student.gain, student.gain_range)):
            command = f"ppcls export {session.recipe.name} --baseline --out FOLDER"
            console.print(f"\n[yellow]{loss}[/]; to have it: {command}")
        if student and (doubt := report.doubt_of(session.recipe, session.done)):
            console.print(f"\n[yellow]note:[/] {doubt}")
        if student and teacher and (under := 100 * (teacher.top1 - student.top1)) >= FAR:
            console.print(
                f"\n{stage} is {under:.1f} points under the teacher: a wider network "
                "(student.spec), larger images (image_size) or more epochs may come nearer",
                style="dim",
            )
        console.print(f"\nexported: {_latest(session, 'export')} ({stage}, best on val)")
    if "report" in session.done:
        path, key = _latest(session, "report") / "report.html", session.done["report"].key[:12]
        console.print(f"report: {path} ({key}, its name for `ssld compare`)\n")


def _latest(session: Session, stage: str) -> Path:
    """The link that leads to this result until the recipe's next, or where there is none its
    folder."""
    link, result = session.store.latest(session.recipe.name, stage), session.done[stage]
    return link if link.resolve() == result.directory.resolve() else result.directory
