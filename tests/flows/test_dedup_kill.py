"""`ppcls dedup` killed with SIGKILL between two parts goes on to the same bytes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.ppcls_core.dedup.test_dedup_command import picture, save

SEARCH = """
import sys
from pathlib import Path
from ppcls_core.dedup import collection, run as command
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.runtime.monitor import SilentMonitor

collection.PART = command.PART = 2
pool, val, out = map(Path, sys.argv[1:])
config = DedupConfig(num_features=120, min_side=96, canaries=5)
command.dedup(command.Search(pool, val, out, config, 2), SilentMonitor())
"""
RESULT = ("pairs.parquet", "pairs.csv", "kept.parquet", "rejected.parquet", "weak.parquet")
RESULT += ("canaries.parquet", "pairs.html", "removed.json")


def start(root: Path, out: str) -> subprocess.Popen[bytes]:
    folders = [str(root / name) for name in ("pool", "val", out)]
    return subprocess.Popen([sys.executable, "-c", SEARCH, *folders])


def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / "pool" / f"{number:02d}.png", picture(number)[8:112, 10:150])
    for number in range(3):
        save(tmp_path / "val" / f"{number}.png", picture(number))
    process, second = start(tmp_path, "killed"), tmp_path / "killed" / "shards" / "00001.json"
    while not second.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was killed before its end"
    stamp = second.stat().st_mtime_ns
    assert start(tmp_path, "killed").wait() == start(tmp_path, "whole").wait() == 0
    assert second.stat().st_mtime_ns == stamp
    for name in RESULT:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
