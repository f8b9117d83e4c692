"""Server, worker and engine as a user has them, killed in the middle of stages and resumed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_catalog.base.files import read_json
from tests.conftest import TINY
from tests.flows.conftest import run_stages
from tests.support.processes import kill_with_environment, wait_until, with_environment
from tests.support.user import BIN, SLOW, User

# Enough shards and steps that a kill meets a stage in its middle.
SETTINGS = [
    "shard_size=3",
    "distill.epochs=8",
    "run_time.checkpoint_seconds=0.2",
]


class Deployer(User):
    """A user who runs the deployment, and whose worker dies."""

    def deploys(self, *options: str) -> None:
        settings = "settings=[" + ", ".join(f'"{s}"' for s in SETTINGS) + "]"
        parameters = ("--param", f"recipe={TINY}", "--param", settings)
        self.types("prefect", "deployment", "run", "ssld/full", *parameters, *options)

    def kills_in(self, stage: str, sign: str) -> None:
        """SIGKILL worker and engine as soon as a file `sign` of `stage` is there."""
        self.deploys()
        pattern = f"{stage}/*/{sign}"
        assert wait_until(lambda: any(self.store.glob(pattern)), SLOW * 100), f"no {pattern}"
        worker = read_json(self.folder / "home" / "services" / "worker-gpu.json")["pid"]
        for pid in [worker, *children(worker)]:
            os.kill(pid, signal.SIGKILL)
        assert not any(self.store.glob(f"{stage}/*/manifest.json")), "the stage was over already"


def children(pid: int) -> list[int]:
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    direct = [int(word) for word in out.stdout.split()]
    return direct + [grand for child in direct for grand in children(child)]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Deployer]:
    """Whose services end with the test, however that ends."""
    user = Deployer(tmp_path)
    try:
        yield user
        user.types("ssld", "down")
        assert with_environment(str(tmp_path)) == [], "`ssld down` has left processes"
    finally:
        kill_with_environment(str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(SLOW * 420)
def test_killed_in_dedup_label_and_distill_then_resumed(user: Deployer, tmp_path: Path) -> None:
    assert f"http://127.0.0.1:{user.port}" in user.up()
    stamps: dict[Path, int] = {}
    for stage, sign in (
        ("dedup", "shards/shard-00001.json"),
        ("label", "shard-00001.json"),
        ("distill", "checkpoint.pdckpt"),
    ):
        user.kills_in(stage, sign)
        stamps |= {path: path.stat().st_mtime_ns for path in user.store.glob("*/*/**/shard-*.json")}
        assert "its process is gone, marked Crashed" in user.up()
    user.deploys("--watch")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "a shard was made again"
    got, ran = run_stages(user.store, SETTINGS)
    assert ran == []
    want, _ = run_stages(tmp_path / "uninterrupted", SETTINGS, until="export")
    assert {n: got[n].digest for n in want} == {n: result.digest for n, result in want.items()}
    shutil.rmtree(user.store)


@pytest.mark.slow
@pytest.mark.timeout(SLOW * 240)
def test_ctrl_c_saves_and_ends_though_a_terminal_sends_it_to_all(tmp_path: Path) -> None:
    user = User(tmp_path)  # without a server of its own
    command = [str(BIN / "ssld"), "run", str(TINY), "--set", "teacher.train.epochs=2000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        command, env=user.environment, cwd=tmp_path, start_new_session=True, **pipes
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "epoch 2," in line:
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(SLOW * 60) == 130, "".join(lines)
    assert "what is done is saved" in "".join(lines)
    assert "Traceback" not in "".join(lines)
