"""A step waits for nothing: its transfers are counted, and the sources hold no others."""

import ast
from collections import Counter
from contextlib import nullcontext

import numpy as np
import paddle
import pytest

from ppcls_core.data.augment import CutMix
from ppcls_core.data.batch import Batch
from ppcls_core.data.loader import Replay, TrainLoader
from ppcls_core.engine import distributed
from ppcls_core.engine.config import CLASSIC, TrainConfig
from ppcls_core.engine.device import Download, to_device
from ppcls_core.engine.evaluator import count_hits
from ppcls_core.engine.objectives import cross_entropy, distillation, replay
from ppcls_core.engine.optimizers import Adam
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.trainer import Trainer, Training, hits
from ppcls_core.models.networks.layers import normalize
from ppcls_core.models.registry import build_model
from ppcls_core.runtime.monitor import SilentMonitor
from tests.conftest import PROJECT
from tests.support.images import image_set
from tests.support.transfers import counted

CONFIG = TrainConfig(epochs=1, batch_size=4, image_size=32, lr=0.01)
STEPS = 6


class Outputs:
    """Stored outputs, the same for all images."""

    def has(self, ids, view):
        return np.ones(len(ids), bool)

    def logprobs(self, ids, view):
        return np.full((len(ids), 3), np.log(1 / 3), np.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_set(tmp_path_factory.mktemp("images"), 4 * STEPS)


def network(depth=1):
    paddle.seed(0)
    spec = {"depths": [depth] * 4, "width": 4}
    return build_model("ResNet18_vd", num_classes=3, spec=spec)


def transfers(images, objective, depth=1, config=CONFIG, **loader) -> Counter[str]:
    """Those of four steps that are neither the first nor the last."""
    data = TrainLoader(images, CONFIG.batch_size, 32, CLASSIC, 7, 1, **loader)
    reports = []
    training = Training(network(depth), objective, data, lambda model: {}, reports.append)
    trainer = Trainer(training, config, PROJECT / "absent", 1e9, SilentMonitor())
    batches = trainer.remaining_batches()
    trainer.step(batches)
    with counted() as counts:
        for _ in range(4):
            trainer.step(batches)
            trainer._save_or_stop()
    trainer.settle()
    assert [report.step for report in reports] == [0, 1, 2, 3, 4]
    return counts


ONE = Counter(to_tensor=4, numpy=4)  # the batch, and the figures of the step before
WAYS = {
    "labels": (lambda: cross_entropy(0.1), {}),
    "mixed": (lambda: cross_entropy(0.0), {"mix": CutMix()}),
    "replay": (lambda: replay("ssld"), {"replay": Replay(Outputs(), 0)}),
    "online": (lambda: distillation([network(), network()], "ssld", "batch"), {}),
}
ADDITIONS = {
    "plain": {},
    "average": {"ema_decay": 0.9},
    "parts": {"accumulate": 2},
    "all": {"ema_decay": 0.9, "accumulate": 4, "clip_norm": 0.5, "optimizer": Adam()},
}


@pytest.mark.parametrize("way", WAYS)
def test_two_transfers_a_step(images, way):
    objective, loader = WAYS[way]
    assert transfers(images, objective(), **loader) == ONE


def test_what_counts_as_a_transfer():
    tensor = paddle.ones([])
    with counted() as counts:
        found = [float(tensor), bool(tensor), int(tensor), tensor.item(), tensor.numpy().tolist()]
        tensor.set_value(np.array(0, np.float32))
        paddle.ones([1]).lerp_(paddle.zeros([1]), 0.5)  # of the weight
        assert float(tensor + 1) == 1
    assert found == [1, True, 1, 1, 1]
    assert counts == Counter(
        __float__=2, __bool__=1, __int__=1, item=1, numpy=1, set_value=1, to_tensor=1
    )


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("depth", [1, 2])
def test_whatever_is_added_and_however_deep_the_network(images, addition, depth):
    config = CONFIG.model_copy(update=ADDITIONS[addition])
    assert transfers(images, cross_entropy(0.1), depth, config) == ONE


@pytest.mark.parametrize("addition", ADDITIONS)
def test_three_of_several_processes_and_one_exchange(images, addition, monkeypatch):
    sizes = []

    def all_reduce(values):
        sizes.append(values.shape[0])
        values.scale_(2.0)  # as if the other process had the same

    monkeypatch.setattr(distributed, "_world", distributed.World(0, 2))
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(distributed, "fused_allreduce_gradients", lambda parameters, _: None)
    config = CONFIG.model_copy(update={**ADDITIONS[addition], "accumulate": 1})
    counts = transfers(images, cross_entropy(0.1), config=config)
    assert counts == Counter(to_tensor=8, numpy=4)  # the flags too
    assert len(sizes) == 5
    assert min(sizes) > 100  # batch norm's statistics are among the figures


def test_hits_are_those_of_the_evaluation():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (50, 8)).astype(np.float32)  # with ties
    logits[3, 2], logits[5] = np.nan, np.nan
    labels = rng.integers(-1, 8, 50)
    known = labels >= 0
    expected = count_hits(logits[known], labels[known])[1:].sum(1)
    assert hits(paddle.to_tensor(logits), paddle.to_tensor(labels)).numpy().tolist() == [*expected]


@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_batch_arrives_as_it_is_and_in_order(num_parts):
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2, -1, 5, 4])
    weight, targets = rng.random(6, np.float32), rng.normal(size=(6, 7)).astype(np.float32)
    pixels = rng.integers(0, 256, (6, 3, 5, 5), np.uint8)
    parts = to_device(Batch(pixels, labels, labels[::-1], weight, targets), num_parts).parts
    assert len(parts) == num_parts
    given = {"pixels": pixels, "labels": labels, "other_labels": labels[::-1]}
    for name, array in {**given, "weight": weight, "targets": targets}.items():
        arrived = np.concatenate([getattr(part, name).numpy() for part in parts])
        assert arrived.dtype == array.dtype
        assert np.array_equal(arrived, array)
    assert to_device(Batch(pixels, labels)).parts[0].targets is None


def test_a_gpu_copies_from_pinned_memory_without_waiting(monkeypatch):
    """With a stand-in for what Paddle without CUDA does not have."""
    asked, made = [], paddle.to_tensor
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle, "CUDAPinnedPlace", lambda: "pinned")
    monkeypatch.setattr(
        paddle, "to_tensor", lambda data, place: (asked.append(place), made(data))[1]
    )
    monkeypatch.setattr(
        paddle.Tensor, "cuda", lambda self, **options: (asked.append(options), self.clone())[1]
    )
    batch = Batch(np.zeros((2, 3, 4, 4), np.uint8), np.array([0, 1]))
    upload = to_device(batch)
    assert asked == ["pinned", {"blocking": False}]
    assert upload.parts[0].labels.numpy().tolist() == [0, 1]


def test_a_gpu_s_figures_are_waited_for_and_not_what_it_was_given_later(monkeypatch):
    """With a stand-in for what Paddle without CUDA does not have."""
    done = []

    class Stream:
        def record_event(self):
            done.append("recorded")
            return self

        def synchronize(self):
            done.append("waited")

    def pin_memory(self, blocking):
        done.append(blocking)
        return self

    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device, "current_stream", Stream)
    monkeypatch.setattr(paddle.Tensor, "pin_memory", pin_memory)
    download = Download(paddle.ones([2]))
    assert done == [False, "recorded"]
    assert download.read().tolist() == [1, 1]
    assert done == [False, "recorded", "waited"]


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_pixels_are_normalised_in_full_precision(level, monkeypatch):
    inner = []
    pixels = np.zeros((1, 3, 2, 2), np.uint8)
    normalize(pixels, network())  # the constants
    monkeypatch.setattr(
        paddle.amp, "auto_cast", lambda **options: (inner.append(options), nullcontext())[1]
    )
    with Precision(dtype="bf16", level=level).autocast():
        assert normalize(pixels, network()).dtype == paddle.float32
    assert inner[-1] == {"enable": False}


COPIES = {"numpy", "to_tensor", "item", "tolist", "float", "bool"}
MAY_COPY = {  # the functions of each file that call one of COPIES
    "averages.py": set(),
    "checkpoint.py": {"_write", "require_finite", "_position_of"},  # at a save or an epoch's end
    "device.py": {"_copied", "read"},  # the batch, the figures
    "distributed.py": {"join", "sum", "any", "follow_first", "set_in_place"},  # not in a step
    "evaluator.py": {"predict_logits"},  # once a batch
    "losses.py": set(),
    "objectives.py": set(),
    "optimizers.py": set(),
    "precision.py": set(),
    "trainer.py": {"_launch", "_read", "_save_or_stop"},  # the flags; numpy's own numbers
}


@pytest.mark.parametrize("name", MAY_COPY)
def test_no_other_function_copies_between_host_and_device(name):
    tree = ast.parse((PROJECT / "ppcls_core" / "engine" / name).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [
        (function.name, getattr(call.func, "attr", getattr(call.func, "id", "")))
        for function in functions
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
    ]
    assert {function for function, called in calls if called in COPIES} == MAY_COPY[name]
