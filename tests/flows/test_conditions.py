"""`ssld run` where the machine fails it: it says so in a message, and goes on when it may."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.api import MOST_DEATHS
from tests.conftest import TINY
from tests.flows.conftest import run_stages
from tests.support.processes import is_of, kill_with_environment, wait_until, with_environment
from tests.support.user import BIN, SLOW, User

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SLOW * 240)]
RUN = ("ssld", "run", str(TINY))


class Runner(User):
    """A user who runs the recipe and reads what is said."""

    def starts(self, *before: str, **variables: str) -> subprocess.Popen[str]:
        """The run, going on; its command comes after the words `before`."""
        return subprocess.Popen(
            [*before, str(BIN / RUN[0]), *RUN[1:]],
            env=self.environment | variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ends(self, run: subprocess.Popen[str]) -> tuple[int, str]:
        """(exit status, all that it has said) of a run."""
        said, _ = run.communicate(timeout=SLOW * 200)
        assert "Traceback" not in said.replace("C++ Traceback", ""), said
        return run.returncode, said

    def meets(self, sign: str) -> Callable[[], bool]:
        """Whether a file of the store is there."""
        return lambda: any(self.store.glob(sign))

    def differences(self, finished: Path) -> list[str]:
        """Stages whose results, once the run is done, are not those of the run left alone."""
        status, said = self.ends(self.starts())
        assert status == 0, said
        got, ran = run_stages(self.store, until="export")
        assert ran == []
        want, _ = run_stages(finished, until="export")
        return [name for name in want if got[name].digest != want[name].digest]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Runner]:
    """Of whom nothing is left running."""
    try:
        yield Runner(tmp_path)
    finally:
        kill_with_environment(str(tmp_path))


def mount(*words: str) -> None:
    """Call `mount`; skip the test where that is not allowed."""
    done = subprocess.run(["mount", *words], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(user: Runner) -> Iterator[Path]:
    """A small disk, on which the store lies."""
    place = user.store.parent
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=200k", "none", str(place))
    try:
        yield place
    finally:
        kill_with_environment(str(user.folder))
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_told_and_with_space_the_run_goes_on(
    user: Runner, disk: Path, finished: Path
) -> None:
    for size in ("200k", "800k"):
        mount("-o", f"remount,size={size}", str(disk))
        status, said = user.ends(user.starts())
        assert status in (1, 2)
        assert "free space" in said or "cannot be written" in said, said
    mount("-o", "remount,size=100m", str(disk))
    assert user.differences(finished) == []


def test_what_is_done_is_read_from_a_store_that_cannot_be_written(
    user: Runner, disk: Path, finished: Path
) -> None:
    mount("-o", "remount,size=100m", str(disk))
    shutil.copytree(finished, user.store, symlinks=True, copy_function=shutil.copy2)
    mount("-o", "remount,ro", str(disk))
    assert user.differences(finished) == []
    (report,) = finished.glob("report/*")
    mount("-o", "remount,rw", str(disk))
    shutil.rmtree(user.store / "report" / report.name)
    mount("-o", "remount,ro", str(disk))
    status, said = user.ends(user.starts())
    assert status == 2
    assert "set SSLD_HOME to a folder that can" in said
    mount("-o", "remount,rw", str(disk))
    assert user.differences(finished) == []


def test_too_little_memory_is_told_and_with_more_the_run_goes_on(
    user: Runner, finished: Path
) -> None:
    """Of address space, as `ulimit -v` limits it, more from run to run until it is enough."""
    told = 0
    for gib in (2, 3, 4, 6, 8, 12, 16, 24):
        status, said = user.ends(user.starts("prlimit", f"--as={gib << 30}"))
        if not status:
            break
        if status == -signal.SIGSEGV:  # a library that does not ask whether it was given any
            continue
        assert status in (1, 2), said
        assert "memory" in said, said
        told += 1
    assert told
    assert user.differences(finished) == []


def test_a_store_that_is_deleted_meanwhile_is_told(user: Runner, finished: Path) -> None:
    run = user.starts()
    assert wait_until(user.meets("label/*"), SLOW * 60)
    shutil.rmtree(user.store, ignore_errors=True)
    status, said = user.ends(run)
    assert status in (1, 2)
    assert "removed" in said
    assert user.differences(finished) == []


def test_two_runs_of_one_recipe_exclude_each_other(user: Runner, finished: Path) -> None:
    both = [user.ends(run) for run in (user.starts(), user.starts())]
    ends = sorted(both)
    assert ends[0][0] == 0
    assert ends[1][0] == 0 or "is being run by process" in ends[1][1]
    assert user.differences(finished) == []


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long back(void) {
  const char *sign = getenv("CLOCK_BACK");
  return sign && access(sign, F_OK) == 0 ? 86400 : 0;
}
int clock_gettime(clockid_t id, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(id, at);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec -= back();
  return status;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return at ? (*at = now.tv_sec) : now.tv_sec;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_clock_that_is_set_back_changes_nothing(user: Runner, finished: Path) -> None:
    source, library, sign = (user.folder / name for name in ("clock.c", "clock.so", "back"))
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    run = user.starts(LD_PRELOAD=str(library), CLOCK_BACK=str(sign))
    assert wait_until(user.meets("dedup/*"), SLOW * 60)
    sign.touch()
    status, said = user.ends(run)
    assert status == 0, said
    assert user.differences(finished) == []


def test_a_run_that_is_stopped_for_a_while_goes_on(user: Runner, finished: Path) -> None:
    run = user.starts()
    assert wait_until(user.meets("label/*"), SLOW * 60)
    os.kill(run.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(run.pid, signal.SIGCONT)
    assert user.ends(run)[0] == 0
    assert user.differences(finished) == []


def test_a_run_whose_servers_are_killed_one_after_the_other_ends_and_goes_on(
    user: Runner, finished: Path
) -> None:
    run = user.starts()
    assert wait_until(user.meets("label/*"), SLOW * 60)
    killed: set[int] = set()

    def are_killed() -> bool:
        for pid in set(with_environment(str(user.folder))) - killed:
            if is_of(pid, "temporary_server"):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        return len(killed) > MOST_DEATHS

    assert wait_until(are_killed, SLOW * 60)
    status, said = user.ends(run)
    assert status == 2
    assert said.count("another takes its place") == MOST_DEATHS
    assert f"so did {MOST_DEATHS} before it" in said, said
    assert with_environment(str(user.folder)) == []
    assert user.differences(finished) == []
