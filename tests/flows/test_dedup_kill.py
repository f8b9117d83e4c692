"""A duplicate search killed with SIGKILL, indexing or searching, ends in the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ppcls_core.dedup.test_dedup_command import picture, save

SEARCH = """
import os, signal, sys
from pathlib import Path
from data_catalog.images.collect import collect
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match import index
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import Search
from ppcls_core.report.search import write_search_page
from ppcls_core.runtime.monitor import SilentMonitor

index.SHARD_SIZE = 2
pool, val, out, *ends_with = map(Path, sys.argv[1:])

class Monitor(SilentMonitor):
    def note(self, message):
        print(message, flush=True)

    def progress(self, done, total, unit):
        if any(path.exists() for path in ends_with):
            os.kill(os.getpid(), signal.SIGKILL)

config = DedupConfig(num_features=120, min_side=96, canaries=5)
search = Search(collect(pool), collect(val), out, config, 2, shard_size=2)
write_search_page(search, find_duplicates(search, Monitor()))
"""


def search(root: Path, out: str, *ends_with: Path) -> subprocess.CompletedProcess[str]:
    """A search in a process of its own, which is killed once the file `ends_with` is there."""
    folders = [root / name for name in ("pool", "val", out)]
    command = [sys.executable, "-c", SEARCH, *map(str, (*folders, *ends_with))]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)


def files(out: Path) -> dict[str, bytes]:
    paths = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("sign", "unit"),
    [
        pytest.param("index/shards", "images indexed", marks=pytest.mark.slow),
        ("shards", "images"),
    ],
)
@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path: Path, sign: str, unit: str) -> None:
    for number in range(12):
        save(tmp_path / "pool" / f"{number:02d}.png", picture(number)[8:112, 10:150])
        save(tmp_path / "val" / f"{number:02d}.png", picture(number % 7))
    second = tmp_path / "killed" / sign / "shard-00001.json"
    assert search(tmp_path, "killed", second).returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in second.parent.glob("shard-*.json")}
    said = search(tmp_path, "killed").stdout
    assert f"{len(finished)} of 6 shards of {unit} are already finished" in said
    assert all(path.stat().st_mtime_ns == finished[path] for path in finished if path.exists())
    search(tmp_path, "whole")
    killed = {
        name: data for name, data in files(tmp_path / "killed").items() if ".tmp-" not in name
    }
    assert killed == files(tmp_path / "whole")
    assert "removed.json" in killed
