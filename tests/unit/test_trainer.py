"""The training loop: exact updates, and interruptions that leave no trace."""

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pytest

from data_catalog.config import UserError
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import Augmentation
from ppcls_core.engine import checkpoint
from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.evaluator import evaluate
from ppcls_core.engine.objectives import cross_entropy, distillation
from ppcls_core.engine.schedules import cosine_warmup
from ppcls_core.engine.trainer import Training, fit
from ppcls_core.models.registry import build_model, classifier_parameters
from ppcls_core.models.weights import state_of
from ppcls_core.monitor import Interrupted, SilentMonitor, check
from tests.unit.images import image_set

NARROW = {"depths": [1, 1, 1, 1], "width": 4}
CONFIG = TrainConfig(
    epochs=3, batch_size=4, image_size=32, lr=0.05, warmup_epochs=1, eval_every=2, l2_decay=1e-3
)
STEPS = 9


class Stopper(SilentMonitor):
    """Asks to stop once `step` steps are done; keeps what it is told."""

    def __init__(self, step=10**9):
        self.step, self.stop_requested = step, False
        self.rows, self.notes = [], []

    def progress(self, done, total, unit):
        assert (total, unit) == (STEPS, "steps")
        self.stop_requested = done >= self.step

    def metrics(self, values):
        self.rows.append(dict(values))

    def note(self, message):
        self.notes.append(message)


class Recorder(Stopper):
    """Keeps the checkpoint of each step."""

    def __init__(self, directory):
        super().__init__()
        self.file, self.checkpoints = directory / checkpoint.FILE, {}

    def progress(self, done, total, unit):
        if done > 1:  # the checkpoint is written after the report
            self.checkpoints[done - 1] = self.file.read_bytes()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """13 images, one of them cut short: three steps of four an epoch."""
    return image_set(tmp_path_factory.mktemp("images"), 13, bad=(2,))


def network(name, seed):
    paddle.seed(seed)
    return build_model(name, num_classes=3, spec=NARROW if name == "ResNet18_vd" else None)


def training(images, name="ResNet18_vd", workers=2, objective=None, seed=1):
    model = network(name, seed)
    loader = TrainLoader(images, CONFIG.batch_size, 32, Augmentation(), 7, workers)

    def validate(model):
        return evaluate(model, images, 32, 1, SilentMonitor()).top1

    objective = objective or cross_entropy(0.1)
    learning = [p for p in model.parameters() if not p.stop_gradient]
    return Training(model, learning, objective, loader, validate)


def run_with_stops(make, directory: Path, stops) -> tuple[Training, list]:
    """Train, stopping after each step in `stops` and going on with a new model and optimizer."""
    for attempt, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            fit(make(attempt), CONFIG, directory, 1e9, Stopper(stop))
    last = make(len(stops))
    return last, fit(last, CONFIG, directory, 1e9, Stopper())


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


@dataclasses.dataclass
class Reference:
    state: dict
    history: list
    checkpoints: dict
    rejected: dict
    rows: list


def reference_run(images, directory, name):
    whole, monitor = training(images, name), Recorder(directory)
    history = fit(whole, CONFIG, directory, 0, monitor)
    monitor.checkpoints[STEPS] = monitor.file.read_bytes()
    rejected = dict(whole.loader.rejected.reasons)
    return Reference(state_of(whole.model), history, monitor.checkpoints, rejected, monitor.rows)


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    return reference_run(images, tmp_path_factory.mktemp("reference"), "ResNet18_vd")


@pytest.mark.parametrize(
    "stops",
    [[1], [2], [3], [4], [6], [8], [9], [2, 5, 7], [3, 6, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
    ids=str,
)
def test_interrupted_and_resumed_equals_uninterrupted(images, reference, tmp_path, stops):
    def make(attempt):
        # Neither what a new model starts from nor the number of threads may show.
        return training(images, workers=(2, 1, 5)[attempt % 3], seed=1 if attempt == 0 else 99)

    last, history = run_with_stops(make, tmp_path, stops)
    assert (tmp_path / checkpoint.FILE).read_bytes() == reference.checkpoints[stops[-1]]
    assert history == reference.history
    assert_same_state(state_of(last.model), reference.state)
    assert list(last.loader.rejected.reasons.items()) == list(reference.rejected.items())


@pytest.mark.parametrize("stops", [[1], [2, 5]], ids=str)
def test_dropout_goes_on_as_if_not_interrupted(images, tmp_path, stops):
    name = "MobileNetV3_small_x0_35"
    whole = reference_run(images, tmp_path / "whole", name)
    last, history = run_with_stops(
        lambda attempt: training(images, name, seed=1 if attempt == 0 else 99), tmp_path, stops
    )
    assert history == whole.history
    assert_same_state(state_of(last.model), whole.state)


@pytest.mark.parametrize("step", [1, 3, 5, 9])
def test_killed_run_goes_on_from_its_last_periodic_checkpoint(images, reference, tmp_path, step):
    (tmp_path / checkpoint.FILE).write_bytes(reference.checkpoints[step])
    resumed, monitor = training(images, seed=5), Stopper()
    assert fit(resumed, CONFIG, tmp_path, 1e9, monitor) == reference.history
    assert monitor.notes == [f"resumes at step {step} of 9"]
    assert_same_state(state_of(resumed.model), reference.state)


def test_stop_during_validation_repeats_the_validation_alone(images, reference, tmp_path):
    first, monitor = training(images), Stopper()

    def validate(model):
        monitor.stop_requested = True
        check(monitor)

    stopped = dataclasses.replace(first, validate=validate)
    with pytest.raises(Interrupted):
        fit(stopped, CONFIG, tmp_path, 1e9, monitor)
    assert (tmp_path / checkpoint.FILE).read_bytes() == reference.checkpoints[6]
    resumed = training(images, seed=3)
    assert fit(resumed, CONFIG, tmp_path, 1e9, Stopper()) == reference.history
    assert_same_state(state_of(resumed.model), reference.state)


def test_distillation_is_resumed_exactly(images, tmp_path):
    def make(attempt):
        objective = distillation(network("MobileNetV3_small_x0_35", 50), "ssld", "batch")
        return training(images, objective=objective, seed=1 if attempt == 0 else 99)

    whole, history = run_with_stops(make, tmp_path / "whole", [])
    last, resumed = run_with_stops(make, tmp_path / "parts", [2, 6])
    assert resumed == history
    assert_same_state(state_of(last.model), state_of(whole.model))


def test_finished_training_is_not_repeated(images, reference, tmp_path):
    resumed, _ = run_with_stops(lambda _: training(images), tmp_path, [STEPS])
    failing = dataclasses.replace(resumed, objective=None)  # type: ignore[arg-type]
    assert fit(failing, CONFIG, tmp_path, 1e9, Stopper()) == reference.history


def test_history_has_a_row_an_epoch_and_top1_where_due(images, tmp_path):
    losses = []

    def objective(model, pixels, labels):
        loss = cross_entropy(0.0)(model, pixels, labels)
        losses.append(float(loss))
        return loss

    monitor = Stopper()
    history = fit(training(images, objective=objective), CONFIG, tmp_path, 1e9, monitor)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert ["top1" in row for row in history] == [False, True, True]  # every second, and the last
    assert [row["loss"] for row in history] == [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert [row["lr"] for row in history] == [
        cosine_warmup(step, 3, 3, 1, CONFIG.lr) for step in (2, 5, 8)
    ]
    assert monitor.rows == history
    assert not (tmp_path / checkpoint.FILE).exists()  # nothing was due


def test_loss_falls(images, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 12, "eval_every": 100})
    history = fit(training(images), config, tmp_path, 1e9, SilentMonitor())
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


@pytest.mark.parametrize("l2_decay", [0.0, 0.01])
def test_updates_are_those_of_momentum_with_l2_decay(images, tmp_path, l2_decay):
    slope = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    subject = training(images)
    weight = subject.model.fc.weight
    subject = dataclasses.replace(
        subject, parameters=[weight], objective=lambda m, x, y: (m.fc.weight * slope).sum()
    )
    expected, velocity = weight.numpy().astype(np.float64), 0.0
    before = state_of(subject.model)
    config = CONFIG.model_copy(update={"l2_decay": l2_decay})
    fit(subject, config, tmp_path, 1e9, SilentMonitor())
    for step in range(STEPS):
        velocity = 0.9 * velocity + slope + l2_decay * expected
        expected = expected - cosine_warmup(step, 3, 3, 1, CONFIG.lr) * velocity
    assert np.allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-6)
    after = state_of(subject.model)
    assert [n for n in after if not np.array_equal(after[n], before[n])] == ["fc.weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loss_that_is_not_finite_is_an_error_before_it_harms(images, tmp_path, value):
    calls = []

    def objective(model, pixels, labels):
        loss = cross_entropy(0.0)(model, pixels, labels)
        calls.append({n: p.numpy() for n, p in model.named_parameters()})
        return loss * value if len(calls) == 5 else loss

    subject = training(images, objective=objective)
    with pytest.raises(
        UserError, match=r"loss is -?(nan|inf) at step 4: lower lr .now 0\.0\d+. or"
    ):
        fit(subject, CONFIG, tmp_path, 1e9, SilentMonitor())
    assert_same_state({n: p.numpy() for n, p in subject.model.named_parameters()}, calls[4])


def test_frozen_backbone_stays_as_it_is(images, tmp_path):
    subject = training(images)
    subject.model.eval()
    learning = classifier_parameters(subject.model)
    for parameter in subject.model.parameters():
        parameter.stop_gradient = all(parameter is not p for p in learning)
    subject = dataclasses.replace(subject, parameters=learning)
    before = state_of(subject.model)
    fit(subject, CONFIG, tmp_path, 0, SilentMonitor())
    after = state_of(subject.model)
    changed = [name for name in after if after[name].tobytes() != before[name].tobytes()]
    assert sorted(changed) == ["fc.bias", "fc.weight"]
    assert not any(layer.training for layer in subject.model.sublayers(include_self=True))


def test_frozen_backbone_is_resumed_exactly(images, tmp_path):
    def make(attempt):
        subject = training(images)
        subject.model.eval()
        for parameter in subject.model.parameters():
            parameter.stop_gradient = True
        for parameter in classifier_parameters(subject.model):
            parameter.stop_gradient = False
        return dataclasses.replace(subject, parameters=classifier_parameters(subject.model))

    whole, history = run_with_stops(make, tmp_path / "whole", [])
    last, resumed = run_with_stops(make, tmp_path / "parts", [4])
    assert resumed == history
    assert_same_state(state_of(last.model), state_of(whole.model))


def test_damaged_checkpoint_is_an_error_with_a_remedy(images, reference, tmp_path):
    data = bytearray(reference.checkpoints[4])
    data[len(data) // 2] ^= 1
    (tmp_path / checkpoint.FILE).write_bytes(data)
    with pytest.raises(UserError, match="damaged checkpoint; delete it to train from the start"):
        fit(training(images), CONFIG, tmp_path, 1e9, SilentMonitor())
