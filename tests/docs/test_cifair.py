"""benchmarks/cifair.py on a small folder of CIFAR's form, searched by `ppcls dedup`'s own code."""

import runpy
import shutil
from pathlib import Path

import pytest

from ppcls_core.cli.dedup import search_given
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.runtime.monitor import SilentMonitor
from tests.conftest import PROJECT
from tests.support.images import write_jpeg

HEADING = "TestID,TrainID,Distance,Judgment\n"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    script = PROJECT / "benchmarks" / "cifair.py"
    monkeypatch.setattr("sys.argv", [str(script), *map(str, words)])
    runpy.run_path(str(script), run_name="__main__")


def test_found_and_listed_pairs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seeds in (("train", range(4)), ("test", range(10, 14))):
        (tmp_path / name).mkdir()
        for number, seed in enumerate(seeds):
            write_jpeg(tmp_path / name / f"{number:05}.jpg", seed, 32, 32)
    for test, train in ((0, 2), (3, 1)):
        shutil.copy(tmp_path / f"train/{train:05}.jpg", tmp_path / f"test/{test:05}.jpg")
    config = DedupConfig(canaries=0)
    search_given(tmp_path / "train", tmp_path / "test", tmp_path / "found", config, SilentMonitor())
    (tmp_path / "list.csv").write_text(HEADING + "0,2,0.1,1\n1,3,0.2,1\n2,0,0.3,2\n")
    run(monkeypatch, tmp_path / "found", tmp_path / "list.csv")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["near-duplicate", "2", "1", "1"] in printed
    assert ["very", "similar", "1", "0", "0"] in printed
    words = " ".join(word for line in printed for word in line)
    assert "found in all: 2 test images, 1 of them not on the list; 2 training images" in words
    (tmp_path / "list.csv").write_text(HEADING + "0,two,0.1,1\n")
    with pytest.raises(SystemExit, match=r"list.csv:2: got \['0', 'two', '1'\], expected numbers"):
        run(monkeypatch, tmp_path / "found", tmp_path / "list.csv")
