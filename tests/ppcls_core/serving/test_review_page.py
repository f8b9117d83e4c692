"""Pairs judged on the page, with the keyboard of a real browser; skipped where there is none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.images.collect import collect
from ppcls_core.dedup.decisions import REVIEWED, AfterReview, read_decisions
from ppcls_core.dedup.search import Search
from ppcls_core.serving.access import access_to
from ppcls_core.serving.review import ReviewService, pairs_to_judge
from tests.ppcls_core.dedup.test_dedup_command import CONFIG, picture, run, save
from tests.support.chromium import Tab, open_tab
from tests.support.stand_in import serving

TOKEN = "0123456789abcdef"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="drives Chromium as Linux has it")
KEYS = {"headers": {"Authorization": f"Bearer {TOKEN}"}, "trust_env": False}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pool/ (three altered copies), val/ and the search's out/."""
    root = tmp_path_factory.mktemp("review")
    for number in range(4):
        save(root / "val" / f"v{number}.png", picture(number))
    save(root / "pool" / "crop.jpg", picture(0)[10:110, 20:150])
    save(root / "pool" / "mirror.jpg", np.ascontiguousarray(picture(1)[:, ::-1]))
    save(root / "pool" / "turn.png", cv2.rotate(picture(2), cv2.ROTATE_90_CLOCKWISE))
    run(root / "pool", root / "val", root / "out")
    return root


@contextmanager
def reviewing(root: Path) -> Iterator[str]:
    """The address of the page of a search, its token included."""
    search = Search(collect(root / "pool"), collect(root / "val"), root / "out", CONFIG, 1)
    after = AfterReview("IF SAME", "THEN")
    service = ReviewService(search, search.out / REVIEWED, access_to("127.0.0.1", TOKEN), after)
    with serving(service) as (url, _):
        yield f"{url}/#{TOKEN}"


def status(tab: Tab) -> str:
    return tab.value("find('status').innerText")


def ready(tab: Tab, text: str) -> None:
    tab.wait(f"find('status').innerText.startsWith('{text}') && find('pool').naturalWidth > 0")


@contextmanager
def reviewed_by_command(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "ppcls_core.cli.app", "dedup", "--review", str(root / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0], process
        finally:
            process.kill()


def test_pairs_are_judged_by_keys_and_survive_a_kill(searched: Path, tmp_path: Path) -> None:
    out = searched / "out"
    ids = pairs_to_judge(out)["pool_id"].to_pylist()
    with reviewed_by_command(searched) as (url, process), open_tab(tmp_path, url) as tab:
        ready(tab, "Pair 1 of 3. 0 the same")
        assert tab.value("find('accept').innerText").endswith("remove it")
        assert tab.value("location.hash") == ""  # no token to be seen or copied
        tab.press("r")
        ready(tab, "Pair 2 of 3. 0 the same, 1 different, 2 to judge")
        tab.press("a")
        ready(tab, "Pair 3 of 3. 1 the same, 1 different")
        tab.press("a")
        tab.wait("find('status').innerText.includes('All are judged')")
        assert "runs; removed.json and the other files of" in status(tab)
        tab.press("u")
        ready(tab, "Pair 3 of 3. 1 the same, 1 different, 1 to judge")
        tab.press("z", command=True)
        ready(tab, "Pair 2 of 3. 0 the same, 1 different, 2 to judge")
        tab.press("a")
        ready(tab, "Pair 3 of 3. 1 the same")
        assert tab.errors == []
        process.kill()
    decisions = {d.pool_id: d.verdict for d in read_decisions(out / REVIEWED).by_pair.values()}
    assert decisions == {ids[0]: "refused", ids[1]: "accepted"}
    with reviewed_by_command(searched) as (url, process):
        (tmp_path / "again").mkdir()
        with open_tab(tmp_path / "again", url) as tab:
            ready(tab, "Pair 3 of 3. 1 the same, 1 different, 1 to judge")
        process.terminate()
        assert process.wait(60) == 0
    listed = json.loads((out / "removed.json").read_text())
    assert {e["image_id"]: e["pairs"][0]["reviewed"] for e in listed["removed"]} == {
        ids[1]: True,
        ids[2]: False,
    }


def test_the_pictures_lie_upon_each_other(searched: Path, tmp_path: Path) -> None:
    """In the slider's view the two halves of an altered copy and its original are one picture."""
    with reviewing(searched) as url, open_tab(tmp_path, url) as tab:
        tab.look(1000, 700, "light")
        ready(tab, "Pair ")
        for number in range(3):
            tab.value(f"soon(() => go({number}))")
            ready(tab, f"Pair {number + 1} of 3")
            tab.press("2")
            tab.wait("view === 'slide'")
            box = tab.value(
                "(({left, top, width, height}) => [left, top, width, height])"
                "(find('val').parentElement.getBoundingClientRect())"
            )
            shown = []
            for share in (0, 100):
                tab.value(f"find('slide').value = {share}; slide()")
                data = np.frombuffer(tab.look(1000, 700, "light"), np.uint8)
                x, y, width, height = (round(value) for value in box)
                shown.append(cv2.imdecode(data, 0)[y : y + height, x : x + width])
            height, width = shown[0].shape
            middle = slice(height // 3, 2 * height // 3), slice(width // 3, 2 * width // 3)
            halves = [image[middle].ravel().astype(float) for image in shown]
            correlation = np.corrcoef(*halves)[0, 1]
            assert correlation > 0.9, number


def test_nothing_runs_over_the_edge(searched: Path, tmp_path: Path) -> None:
    with reviewing(searched) as url, open_tab(tmp_path, url) as tab:
        ready(tab, "Pair ")
        for width in (360, 1200):
            for scheme in ("light", "dark"):
                data = np.frombuffer(tab.look(width, 800, scheme), np.uint8)
                corner = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)[2, 2]
                assert (corner < 60) == (scheme == "dark")
                assert tab.value("document.documentElement.scrollWidth") <= width
                for view in "123":
                    tab.press(view)
                    buttons = "[...document.querySelectorAll('#main button')]"
                    right = f"Math.max(...{buttons}.map(b => b.getBoundingClientRect().right))"
                    assert tab.value(right) <= width


def test_ten_thousand_pairs_are_a_page_of_few(searched: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for name in ("pool", "val"):
        (many / name).symlink_to(searched / name)
    (many / "out").mkdir()
    (row, *_) = pq.read_table(searched / "out" / "pairs.parquet").to_pylist()
    rows = [row | {"pool_sha256": f"{n:064x}", "margin": n / 1e5} for n in range(10_000)]
    table = pq.read_table(searched / "out" / "refused.parquet")
    pq.write_table(pa.Table.from_pylist(rows, table.schema), many / "out" / "pairs.parquet")
    pq.write_table(table, many / "out" / "refused.parquet")
    with reviewing(many) as url, open_tab(tmp_path, url) as tab:
        ready(tab, "Pair 1 of 10,0")
        last = tab.value("standing.total")
        tab.value(f"list.scrollTop = {last} * ROW")
        tab.wait(f"[...rows.keys()].includes({last - 1})")
        assert tab.value("document.querySelectorAll('.row').length") < 40
        tab.value("soon(() => go(standing.total - 1))")
        ready(tab, "Pair 10,0")
        assert tab.value("pages.size") <= 4
        tab.press("r")
        ready(tab, "Pair 1 of")  # the next to judge, in a circle
    assert len(read_decisions(many / "out" / REVIEWED)) == 1


def test_what_is_asked_wrongly_is_refused(searched: Path) -> None:
    with reviewing(searched) as url:
        base = url.partition("#")[0]
        assert httpx.get(base + "pairs", trust_env=False).status_code == 401
        for body in ({"number": 99, "verdict": "accepted"}, {"number": 0, "verdict": "maybe"}):
            answer = httpx.post(base + "decision", json=body, **KEYS)  # type: ignore[arg-type]
            assert answer.status_code in (404, 422)
            assert {"got", "expected", "remedy"} <= answer.json()["error"].keys()
        asked = "picture?number=0&side=pool&size=small"
        assert httpx.get(base + asked, **KEYS).headers["X-Size"] == "130 100"  # type: ignore[arg-type]
