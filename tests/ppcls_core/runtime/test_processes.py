"""Child processes: answers, reports and errors come back, and no child outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from ppcls_core.runtime.monitor import Interrupted
from ppcls_core.runtime.processes import Child, ChildDied, Parent, PeerEnded, exit_text, gather
from tests.conftest import PROJECT
from tests.support.processes import is_running, wait_until


class Odd(Exception):
    """One that cannot be pickled and made again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def count(rank: int, parent: Parent) -> int:
    for number in range(3):
        parent.report("count", number)
    return rank


def fail(error: BaseException) -> None:
    raise error


def die(rank: int, parent: Parent) -> None:
    print("its last words", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)


def last_dies(rank: int, parent: Parent) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise PeerEnded("another process has ended")


def until_stopped(rank: int, parent: Parent) -> None:
    parent.report("begun")
    while not parent.stop_requested:
        time.sleep(0.01)
    raise Interrupted


ANSWERS: dict[str, Callable[[int, Parent], object]] = {
    "pid": lambda rank, parent: os.getpid(),
    "count": count,
    "user": lambda rank, parent: fail(UserError("correct it")),
    "defect": lambda rank, parent: fail(KeyError("no such key")),
    "odd": lambda rank, parent: fail(Odd("a", "b")),
    "unpicklable": lambda rank, parent: lambda: None,
    "die": die,
    "leave": lambda rank, parent: os._exit(3),
    "last dies": last_dies,
    "until stopped": until_stopped,
    "for ever": lambda rank, parent: time.sleep(1000),
}


def worker(rank: int) -> Callable[[str, Parent], object]:
    return lambda request, parent: ANSWERS[request](rank, parent)


def refuse() -> object:
    raise UserError("the model cannot be loaded")


def start(rank: int = 0, **options: object) -> Child:
    return Child(f"{__name__}:worker", (rank,), with_paddle=False, **options)  # type: ignore[arg-type]


def test_answers_reports_and_errors_come_back_and_the_child_goes_on():
    reports = []
    with start(7) as child:
        pid = child("pid")
        assert child("count", lambda *values: reports.append(values)) == 7
        assert reports == [("count", 0), ("count", 1), ("count", 2)]
        with pytest.raises(UserError, match=r"^correct it$") as user:
            child("user")
        assert not hasattr(user.value, "__notes__")
        with pytest.raises(KeyError, match="no such key") as defect:
            child("defect")
        assert "test_processes.py" in defect.value.__notes__[0]
        with pytest.raises(RuntimeError, match="Odd: ab"):
            child("odd")
        with pytest.raises(Exception, match="pickle"):
            child("unpicklable")
        assert child("pid") == pid != os.getpid()
    assert not is_running(pid)


def test_what_does_not_open_says_why_at_each_request():
    with Child(f"{__name__}:refuse", with_paddle=False) as child:
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be loaded"):
                child(None)


class Unreadable:
    """It pickles, and cannot be read again."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)


def test_a_request_that_cannot_be_read_there_is_an_error():
    with start(3) as child:
        with pytest.raises(ValueError, match="no number"):
            child(Unreadable())
        assert child("count") == 3


@pytest.mark.parametrize(
    ("request_", "words"),
    [("die", r"it has ended with -9 \(SIGKILL: killed, as for want of memory\); again"),
     ("leave", "it has ended with 3; again")],
)  # fmt: skip
def test_a_death_is_told_in_words_with_the_last_of_the_log(tmp_path: Path, request_, words):
    with start(name="it", remedy="again", log=tmp_path / "log") as child:
        for _ in range(2):
            with pytest.raises(UserError, match=words) as error:
                child(request_)
    assert ("its last words" in str(error.value)) == (request_ == "die")
    assert isinstance(error.value, ChildDied) == (request_ == "die")


def test_exit_statuses_have_words():
    assert exit_text(-15) == "-15 (SIGTERM: a signal)"
    assert exit_text(1) == "1"


def test_the_cause_is_raised_not_its_consequence():
    told = pytest.raises(UserError, match="has ended with -9")
    with start(0) as first, start(1) as second, told:
        gather([first, second], "last dies")


def test_a_stop_is_passed_on_to_all():
    begun = []
    with start(0) as first, start(1) as second, pytest.raises(Interrupted):
        gather(
            [first, second],
            "until stopped",
            lambda *values: begun.append(values),
            lambda: len(begun) == 2,
        )


def test_a_stop_reaches_a_child_that_only_starts():
    with start() as child, pytest.raises(Interrupted):
        gather([child], "until stopped", stop_requested=lambda: True)


def test_closing_ends_a_child_at_work():
    with start() as child:
        pid = child("pid")
        child.send("for ever")
        begun = time.monotonic()
    assert time.monotonic() - begun < 100
    assert not is_running(pid)


def test_a_childs_signals_are_its_parents_affair():
    with start() as child:
        pid = child("pid")
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)
        assert child("pid") == pid
        assert os.getpgid(pid) != os.getpgid(0)  # a terminal's Ctrl-C does not reach it


@pytest.mark.parametrize("request_", ["pid", "for ever"])
def test_a_child_ends_with_a_killed_parent(tmp_path: Path, request_: str):
    code = (
        "import os, sys, pathlib\n"
        "from tests.ppcls_core.runtime.test_processes import start\n"
        "child = start()\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child('pid')))\n"
        "child.send(sys.argv[2])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pid"), request_]
    subprocess.run(
        command, cwd=PROJECT, check=False, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not is_running(pid), 60)
