"""A duplicate search killed with SIGKILL, indexing or searching, ends in the same bytes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ppcls_core.dedup.test_dedup_command import picture, save

SEARCH = """
import sys
from pathlib import Path
from data_catalog.images.collect import collect
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match import index
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import Search
from ppcls_core.report.search import write_search_page
from ppcls_core.runtime.monitor import SilentMonitor

class Monitor(SilentMonitor):
    def note(self, message):
        print(message)

index.SHARD_SIZE = 2
pool, val, out = map(Path, sys.argv[1:])
config = DedupConfig(num_features=120, min_side=96, canaries=5)
search = Search(collect(pool), collect(val), out, config, 2, shard_size=2)
write_search_page(search, find_duplicates(search, Monitor()))
"""


def start(root: Path, out: str) -> subprocess.Popen[str]:
    folders = [str(root / name) for name in ("pool", "val", out)]
    command = [sys.executable, "-c", SEARCH, *folders]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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
def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path: Path, sign: str, unit: str) -> None:
    for number in range(12):
        save(tmp_path / "pool" / f"{number:02d}.png", picture(number)[8:112, 10:150])
        save(tmp_path / "val" / f"{number:02d}.png", picture(number % 7))
    process, second = start(tmp_path, "killed"), tmp_path / "killed" / sign / "shard-00001.json"
    while not second.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed before its end"
    finished = {path: path.stat().st_mtime_ns for path in second.parent.glob("shard-*.json")}
    said, _ = start(tmp_path, "killed").communicate()
    assert f"{len(finished)} of 6 shards of {unit} are already finished" in said
    assert all(path.stat().st_mtime_ns == finished[path] for path in finished if path.exists())
    start(tmp_path, "whole").communicate()
    killed = {
        name: data for name, data in files(tmp_path / "killed").items() if ".tmp-" not in name
    }
    assert killed == files(tmp_path / "whole")
    assert "removed.json" in killed
