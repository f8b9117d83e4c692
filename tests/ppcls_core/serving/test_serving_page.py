"""The page in a real browser; skipped where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.chromium import Tab, open_tab
from tests.support.stand_in import encoded, running

TOKEN = "0123456789abcdef"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="drives Chromium as Linux has it")


def names(tab: Tab) -> list[str]:
    """Classes of the newest picture, as shown."""
    return tab.value("[...results.children[0].querySelectorAll('li span')].map(x => x.innerText)")


def test_a_dropped_picture_gets_its_classes(tmp_path: Path):
    picture = tmp_path / "grün <b>.png"
    picture.write_bytes(encoded("green", ".png"))
    (tmp_path / "broken.jpg").write_bytes(encoded("red")[:-20])
    with running() as server, open_tab(tmp_path, server.url) as tab:
        tab.wait("find('about').innerText.startsWith('3 classes')")
        assert tab.value("find('model').innerText") == "Colours"
        tab.drop(picture, 200, 200)
        tab.wait("document.querySelectorAll('li').length === 3")
        assert names(tab)[0] == "green"
        assert tab.value("document.querySelector('h2').innerText") == picture.name
        width = "document.querySelector('li i').getBoundingClientRect().width"
        assert tab.value(f"{width} > 100")  # the bar: the security policy lets it be drawn
        assert tab.value("document.querySelector('article img').naturalWidth") == 40
        assert tab.errors == []
        check_looks(tab)
        tab.drop(tmp_path / "broken.jpg", 200, 200)
        said = tab.wait("document.querySelector('.bad')?.innerText")
        assert "expected a whole image file" in said
        assert "Send the whole file." in said


def check_looks(tab: Tab) -> None:
    """Nothing runs over the edge, narrow or wide, and dark is dark."""
    for width in (360, 1200):
        for scheme in ("light", "dark"):
            data = np.frombuffer(tab.look(width, 800, scheme), np.uint8)
            corner = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)[790, 5]
            assert (corner < 60) == (scheme == "dark")
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_the_page_asks_for_the_token(tmp_path: Path):
    picture = tmp_path / "blue.jpg"
    picture.write_bytes(encoded("blue"))
    with running(token=TOKEN) as server, open_tab(tmp_path, server.url) as tab:
        tab.wait("find('about').innerText.startsWith('3 classes')")
        tab.drop(picture, 200, 200)
        tab.wait("!login.hidden")
        tab.value(f"find('token').value = '{TOKEN}'; login.requestSubmit()")
        tab.wait("document.querySelectorAll('li').length === 3")
        assert names(tab)[0] == "blue"
