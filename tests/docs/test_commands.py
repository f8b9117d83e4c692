"""Commands and Python of the documents are run as they stand there, in a folder of small files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.documents import PAGES, Block, blocks
from tests.support.images import write_jpeg

PROGRAMS = {"ssld": "flows.cli", "ppcls": "ppcls_core.cli.app"}
JOB = """
model: {name: MobileNetV3_small_x0_35}
num_classes: 3
train: {list: list.txt, root: .}
val: {list: list.txt, root: .}
training: {epochs: 1, batch_size: 2, image_size: 32}
preprocess: {size: 32}
"""


def programs(folder: Path) -> None:
    """Put `ssld` and `ppcls` of this tree into `folder`, and Python as `python`."""
    folder.mkdir()
    for name, module in PROGRAMS.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "python").symlink_to(sys.executable)


def files(folder: Path) -> None:
    """What the documents' commands find in their folder."""
    for name in ("pool", "val"):
        (folder / name).mkdir()
    for seed in range(3):
        write_jpeg(folder / "val" / f"{seed}.jpg", seed, 200, 240)
        write_jpeg(folder / "pool" / f"copy_{seed}.jpg", seed, 150, 180)
        write_jpeg(folder / "pool" / f"other_{seed}.jpg", 10 + seed, 200, 240)
    write_jpeg(folder / "photo.jpg", 0, 256, 256)
    (folder / "list.txt").write_text("photo.jpg 0\n")
    (folder / "job.yaml").write_text(JOB)


def script_of(block: Block) -> list[str]:
    """The command that runs `block`."""
    if block.language == "python":
        return [sys.executable, "-W", "ignore", "-c", block.text]
    assert block.language == "sh"
    return ["bash", "-euo", "pipefail", "-c", block.text]


RUN = [block for page in PAGES for block in blocks(page) if block.is_run]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            marks=[pytest.mark.slow] if block.is_slow else [],
            id=f"{block.page.stem}-{block.text.splitlines()[0]}",
        )
        for block in RUN
    ],
)
def test_it_runs(block: Block, tmp_path: Path) -> None:
    programs(tmp_path / "bin")
    files(tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "SSLD_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        script_of(block),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_some_are_run() -> None:
    assert len(RUN) >= 6
