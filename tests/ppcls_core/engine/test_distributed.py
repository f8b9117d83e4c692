"""Two processes do what one does: the same losses, weights, accuracy and errors."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import paddle
import pytest
from paddle.distributed.launch.context.device import Device

from data_catalog.base.config import UserError
from ppcls_core.engine.distributed import Ahead, World, join, world
from ppcls_core.models.weights.files import load_state
from ppcls_core.runtime.processes import Child, PeerEnded, gather
from ppcls_core.runtime.ranks import Peers, rank_environments
from tests.conftest import PROJECT
from tests.support import two_processes as two
from tests.support.images import image_set

PARTS = two.CONFIG.model_copy(update={"accumulate": 2})  # what two processes do, in one


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(folder, what the two processes found)."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "images").mkdir()
    image_set(folder / "images", two.NUM_IMAGES, bad=two.BAD)
    two.trained(two.new_training(folder), PARTS, folder / "shared", stop=2)
    command = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    script = [str(PROJECT / "tests" / "support" / "two_processes.py"), str(folder)]
    done = subprocess.run(
        [sys.executable, *command, *script],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode != 0, "a process was killed, which ends the launch"
    assert (folder / "0.json").exists(), done.stdout
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def state(directory, rank=0):
    return load_state(directory / f"state{rank}.pdparams")


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("name", two.NETWORKS)
@pytest.mark.slow
def test_two_processes_do_what_one_does_in_two_parts(found, tmp_path, name):
    folder, both = found
    alone = two.trained(two.new_training(folder, name), PARTS, tmp_path / "alone")
    for rank, processes in enumerate(both):
        assert processes[name] == json.loads(json.dumps(alone))
        assert_same_state(state(folder / name, rank), state(tmp_path / "alone"))
    best, best_alone = (path / "best.pdparams" for path in (folder / name, tmp_path / "alone"))
    assert best.read_bytes() == best_alone.read_bytes()
    assert alone["rejected"] == ["003.jpg", "008.jpg"]


@pytest.mark.slow
def test_frozen_parts_stay_and_the_classifier_learns_alike(found, tmp_path):
    folder, both = found
    alone = two.trained(two.frozen(folder), PARTS, tmp_path / "alone")
    assert both[0]["frozen"] == both[1]["frozen"] == json.loads(json.dumps(alone))
    assert_same_state(state(folder / "frozen", 1), state(tmp_path / "alone"))


@pytest.mark.slow
def test_images_are_mixed_within_a_part_and_the_processes_stay_equal(found):
    folder, both = found
    assert both[0]["mixed"] == both[1]["mixed"]
    assert_same_state(state(folder / "mixed", 0), state(folder / "mixed", 1))


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(found, tmp_path):
    """One process did steps 0 and 1, two did 2 to 4, one does the rest."""
    folder, both = found
    for processes in both:
        assert processes["stopped"]["history"] is None  # the first asked, both stopped
        assert [report[0] for report in processes["stopped"]["reports"]] == [2, 3, 4]
    rest = two.trained(two.new_training(folder, seed=3), PARTS, folder / "shared")
    whole = two.trained(two.new_training(folder), PARTS, tmp_path / "whole")
    assert rest["reports"] == whole["reports"][5:]
    assert rest["history"] == whole["history"]
    assert rest["rejected"] == whole["rejected"]
    assert_same_state(state(folder / "shared"), state(tmp_path / "whole"))


@pytest.mark.slow
def test_each_image_is_counted_once(found):
    folder, both = found
    alone = two.evaluated(folder)
    assert np.sum(alone["by_class"][0]) == two.NUM_IMAGES - len(two.BAD)
    assert both[0]["evaluated"] == both[1]["evaluated"] == alone
    assert list(alone["rejected"].values()) == [len(two.BAD)]
    assert alone["stopped"]


@pytest.mark.slow
def test_collectives(found):
    _, both = found
    for processes in both:
        assert processes["collectives"] == {
            "sum": [1, 1, 2.0**41],
            "any": [True, False, True],
            "gather": [{"rank": 0}, {"rank": 1}],
            "union": {"a": 2, "b0": 1, "b1": 1},
            "followed": [[5, 5], [5, 5]],
            "errors": ["of 0", "of 1"],
        }


@pytest.mark.slow
def test_a_mistake_of_one_process_is_told_by_all(found):
    _, both = found
    for processes in both:
        assert re.match("100 images drawn in a row cannot be read", processes["unreadable"])
        assert "9 images cannot be shared equally by 2 processes" in processes["odd"]


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_training_goes_on_exactly(found, tmp_path):
    folder, _ = found
    told = (folder / "log" / "workerlog.0").read_text()
    assert re.search(
        r"another process of this training has ended: rank 1 with (-9 \(SIGKILL|unknown)", told
    )
    rest = two.trained(two.new_training(folder, seed=3), PARTS, folder / "killed")
    assert [report[0] for report in rest["reports"]] == [2, 3, 4, 5]
    whole = two.trained(two.new_training(folder), PARTS, tmp_path / "whole")
    assert rest["history"] == whole["history"]
    assert_same_state(state(folder / "killed"), state(tmp_path / "whole"))


def test_a_world_of_one_says_nothing(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    monkeypatch.setattr("paddle.distributed.all_reduce", None)
    monkeypatch.setattr("paddle.distributed.all_gather_object", None)
    alone = join()
    assert alone == world() == World(0, 1)
    assert alone.is_first
    assert not alone.is_abandoned
    values, own = np.array([1.5, 2.0]), {"b": 1, "a": 2}
    assert alone.sum(values) is values
    assert alone.union(own) is own
    assert alone.gather(own) == [own]
    assert alone.any(True, False) == [True, False]
    alone.average_gradients([])
    alone.add(paddle.ones([2]))
    alone.follow_first([])
    with pytest.raises(UserError, match="own"), alone.together():
        raise UserError("own")


@pytest.mark.slow
def test_a_peer_that_is_lost_in_silence_is_told_and_ends_the_other(tmp_path):
    """As over NCCL, whose exchange with a lost process neither fails nor ends."""
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                Child(
                    "tests.support.silent_peer:start",
                    (rank,),
                    name=f"process {rank}",
                    environment=environment,
                    log=tmp_path / str(rank),
                )
            )
            for rank, environment in enumerate(rank_environments(2))
        ]
        with pytest.raises(UserError, match=r"process 1 has ended with -9 \(SIGKILL"):
            gather(ranks, None)
    assert "waits in vain for one that has ended (rank 1" in (tmp_path / "0").read_text()


def world_of(peers, monkeypatch, error):
    def fail(tensor):
        raise error

    monkeypatch.setattr("paddle.distributed.all_reduce", fail)
    return World(0, 2, peers)


@pytest.mark.parametrize(
    "error", [OSError("(External) NCCL error(1)"), RuntimeError("(Fatal) NCCL error(1)")]
)
def test_an_exchange_that_fails_says_why_and_blames_nobody_who_lives(monkeypatch, error):
    monkeypatch.setattr("ppcls_core.engine.distributed.PEER_SECONDS", 0.0)
    with subprocess.Popen(["sleep", "100"]) as other:
        world = world_of(Peers({1: other.pid}), monkeypatch, error)
        with pytest.raises(UserError, match=r"NCCL error\(1\). None of them has ended") as own:
            world.sum(np.ones(1))
        assert not isinstance(own.value, PeerEnded)
        other.kill()
        other.wait()
        with pytest.raises(PeerEnded, match=r"has ended: rank 1 .*NCCL error\(1\)"):
            world.sum(np.ones(1))
    elsewhere = world_of(Peers({}), monkeypatch, error)
    with pytest.raises(PeerEnded, match="has ended, and so does this one"):
        elsewhere.sum(np.ones(1))


@pytest.mark.parametrize(
    ("visible", "theirs"), [("2,3", ["2", "3"]), (None, ["0", "1"]), ("", ["", ""])]
)
def test_each_process_has_a_device_of_its_own(monkeypatch, visible, theirs):
    """As Paddle's launcher numbers them; without GPUs, where that one fails on "", by gloo."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    num = 2 if visible != "" else 0
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: num)
    monkeypatch.setattr("paddle.base.core.is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr("paddle.base.core.get_cuda_device_count", lambda: num, raising=False)
    environments = rank_environments(2)
    if not num:
        assert [e["PADDLE_DISTRI_BACKEND"] for e in environments] == ["gloo", "gloo"]
        return
    device = Device.parse_device()
    assert device.labels == theirs
    chosen = [environment["FLAGS_selected_gpus"] for environment in environments]
    assert chosen == device.get_selected_devices() == ["0", "1"]


def failing_after(num):
    yield from range(num)
    raise UserError("no more")


def test_a_batch_that_cannot_be_loaded_is_known_two_steps_before():
    batches = Ahead(failing_after(4), 2)
    found = [(next(batches), batches.error) for _ in range(4)]
    assert found == [(0, ""), (1, ""), (2, "no more"), (3, "no more")]
    with pytest.raises(StopIteration):
        next(batches)
    with pytest.raises(UserError, match="no more"):  # before the first step, which all begin alike
        Ahead(failing_after(1), 2)


def test_alone_nothing_is_taken_in_advance():
    batches = Ahead(failing_after(1), 0)
    assert next(batches) == 0
    with pytest.raises(UserError, match="no more"):
        next(batches)
    assert list(Ahead(iter(range(3)), 2)) == [0, 1, 2]
    assert list(Ahead(iter(()), 2)) == []


JOB = """
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}
num_classes: 3
train: {list: train.txt, root: images}
val: {list: train.txt, root: images}
preprocess: {size: 32}
training: {epochs: 80, batch_size: 8, image_size: 32, lr: 0.05, eval_every: 15}
log_every: 1
workers: 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", [[], ["--backend", "gloo"]], ids=["", "gloo"])
def test_the_command_line_is_stopped_and_goes_on(tmp_path, backend):
    """By SIGTERM to the launcher; that of `--backend` just dies of it, the other one tells."""
    (tmp_path / "images").mkdir()
    images = image_set(tmp_path / "images", 24)
    lines = (f"{name} {label}\n" for name, label in zip(images.ids, images.labels, strict=True))
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "job.yaml").write_text(JOB)
    script = tmp_path / "ppcls.py"  # as the installed command
    script.write_text("from ppcls_core.cli.app import main\nmain()\n")
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", *backend, str(script)]
    train = ["train", "-c", "job.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if backend:  # Paddle's launcher takes "" for one device, unless it is told that these are CPUs
        environment["CUDA_VISIBLE_DEVICES"] = ""

    def start(*command):
        return subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment)

    log = tmp_path / "log" / "workerlog.0"
    with start(*launch, *train) as stopped:
        assert wait(lambda: log.exists() and "epoch:2 train" in log.read_text())
        stopped.terminate()
    told = wait(lambda: "interrupted: a checkpoint is written" in log.read_text())
    assert told, log.read_text()
    assert start(*launch, *train).wait() == 0
    assert start(script, *train, "-o", "output=alone", "-o", "training.accumulate=2").wait() == 0
    assert "resumes at step" in log.read_text()
    assert "train step" not in (tmp_path / "log" / "workerlog.1").read_text()
    for name in ("last.pdparams", "best.pdparams", "history.json"):
        both = (tmp_path / part / "ResNet18_vd" / name for part in ("output", "alone"))
        assert len({path.read_bytes() for path in both}) == 1


def wait(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()
