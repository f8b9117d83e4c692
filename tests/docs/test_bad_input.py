"""Whatever a program cannot use is told in a message that helps; docs/bad_input.md has them all."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bad_input import CASES, LIMITS, PAGE, REQUESTS, SERVER, Case, Request, page, row
from tests.support.stand_in import Running, running

REMEDY = re.compile(
    r"\b(add|ask|call|check|copy|correct|delete|did you mean|encode|expected|export|fill|free|give"
    r"|keep|known|lower|make|name|needs|point|put|raise|rename|run|save|see|send|set|shorten|sort|take|train"
    r"|uncompress|write)\b"
)
NAMED = [pytest.param(case, id=f"{door}: {case.given}") for door in CASES for case in CASES[door]]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(**LIMITS) as started:
        yield started


@pytest.mark.parametrize("case", NAMED)
def test_it_is_told_what_was_got_and_what_to_do(case: Case, tmp_path: Path) -> None:
    check(case, *case.said(tmp_path / "here"))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.given)
def test_a_request_too(request_: Request, server: Running) -> None:
    check(request_, *request_.said(server))


def check(case: Case | Request, status: int, said: str) -> None:
    assert status == case.status, said
    assert "Traceback" not in said
    assert case.names in said
    if status > 1:
        assert REMEDY.search(said), said
    stale = f"not in {PAGE.name}: python -m tests.support.bad_input writes it anew"
    assert row(case, status, said) in PAGE.read_text().splitlines(), stale


def test_the_page_has_these_rows_alone() -> None:
    doors = {door: len(cases) for door, cases in CASES.items()} | {SERVER: len(REQUESTS)}
    assert sum(doors.values()) >= 100
    text = PAGE.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2:7] != "given"]
    assert len(rows) == sum(doors.values())
    assert "".join(f"{line}\n" for line in text.splitlines() if line not in rows) == page(
        {door: [] for door in doors}
    )
