"""The training loop: exact updates, and interruptions that leave no trace."""

import dataclasses
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine import checkpoint
from ppcls_core.engine.config import CLASSIC, TrainConfig
from ppcls_core.engine.evaluator import EvalData, evaluate
from ppcls_core.engine.objectives import cross_entropy, distillation
from ppcls_core.engine.optimizers import Adam, Momentum, Regularizer, RMSProp
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.schedules import CosineWarmup, Length
from ppcls_core.engine.trainer import BEST, Trainer, Training
from ppcls_core.models.registry import build_model, classifier_parameters
from ppcls_core.models.weights.files import load_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor, check
from tests.conftest import PROJECT, others_slow
from tests.support.images import image_set

NARROW = {"depths": [1, 1, 1, 1], "width": 4}
CONFIG = TrainConfig(
    epochs=3,
    batch_size=4,
    image_size=32,
    lr=0.05,
    schedule=CosineWarmup(warmup_epochs=1),
    regularizer=Regularizer(factor=1e-3),
    eval_every=2,
)
STEPS = 9
RATES = [CONFIG.schedule(step, CONFIG.lr, Length(3, 3)) for step in range(STEPS)]


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
    loader = TrainLoader(images, CONFIG.batch_size, 32, CLASSIC, 7, workers)

    def validate(model):
        data = EvalData(images, Preprocess(size=32), 1, max_lost=0.5)
        return {"top1": evaluate(model, data, SilentMonitor()).top1}

    objective = objective or cross_entropy(0.1)
    return Training(model, objective, loader, validate)


def run_with_stops(make, directory: Path, stops, config=CONFIG) -> tuple[Trainer, list]:
    """Train, stopping after each step in `stops` and going on with a new model and optimizer."""
    for attempt, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            Trainer(make(attempt), config, directory, 1e9, Stopper(stop)).fit()
    last = Trainer(make(len(stops)), config, directory, 1e9, Stopper())
    return last, last.fit()


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
    monitor = Recorder(directory)
    whole = Trainer(training(images, name), CONFIG, directory, 0, monitor)
    history = whole.fit()
    monitor.checkpoints[STEPS] = monitor.file.read_bytes()
    rejected = dict(whole.position.rejected)
    return Reference(state_of(whole.model), history, monitor.checkpoints, rejected, monitor.rows)


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    return reference_run(images, tmp_path_factory.mktemp("reference"), "ResNet18_vd")


@pytest.mark.parametrize(
    "stops",
    others_slow(
        [[1], [2], [3], [4], [6], [8], [9], [2, 5, 7], [3, 6, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
        [[3], [4], [2, 5, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
    ),
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
    assert list(last.position.rejected.items()) == list(reference.rejected.items())


@pytest.mark.parametrize("stops", others_slow([[1], [2, 5]], [[2, 5]]), ids=str)
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
    assert Trainer(resumed, CONFIG, tmp_path, 1e9, monitor).fit() == reference.history
    assert monitor.notes == [f"resumes at step {step} of 9"]
    assert_same_state(state_of(resumed.model), reference.state)


def test_stop_during_validation_repeats_the_validation_alone(images, reference, tmp_path):
    first, monitor = training(images), Stopper()

    def validate(model):
        monitor.stop_requested = True
        check(monitor)

    stopped = dataclasses.replace(first, validate=validate)
    with pytest.raises(Interrupted):
        Trainer(stopped, CONFIG, tmp_path, 1e9, monitor).fit()
    assert (tmp_path / checkpoint.FILE).read_bytes() == reference.checkpoints[6]
    resumed = training(images, seed=3)
    assert Trainer(resumed, CONFIG, tmp_path, 1e9, Stopper()).fit() == reference.history
    assert_same_state(state_of(resumed.model), reference.state)


def test_distillation_is_resumed_exactly(images, tmp_path):
    def make(attempt):
        objective = distillation([network("MobileNetV3_small_x0_35", 50)], "ssld", "batch")
        return training(images, objective=objective, seed=1 if attempt == 0 else 99)

    whole, history = run_with_stops(make, tmp_path / "whole", [])
    last, resumed = run_with_stops(make, tmp_path / "parts", [2, 6])
    assert resumed == history
    assert_same_state(state_of(last.model), state_of(whole.model))


def test_finished_training_is_not_repeated(images, reference, tmp_path):
    resumed, _ = run_with_stops(lambda _: training(images), tmp_path, [STEPS])
    failing = dataclasses.replace(resumed.training, objective=None)  # type: ignore[arg-type]
    assert Trainer(failing, CONFIG, tmp_path, 1e9, Stopper()).fit() == reference.history


def test_history_has_a_row_an_epoch_and_top1_where_due(images, tmp_path):
    losses = []

    def objective(model, batch):
        loss, logits = cross_entropy(0.0)(model, batch)
        losses.append(float(loss))
        return loss, logits

    monitor = Stopper()
    history = Trainer(training(images, objective=objective), CONFIG, tmp_path, 1e9, monitor).fit()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert ["top1" in row for row in history] == [False, True, True]  # every second, and the last
    assert [row["loss"] for row in history] == [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert [row["lr"] for row in history] == RATES[2::3]
    assert monitor.rows == history
    assert not (tmp_path / checkpoint.FILE).exists()  # nothing was due


def test_loss_falls(images, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 12, "eval_every": 100})
    subject = training(images)
    plain = dataclasses.replace(subject.loader, augmentation=Preprocess(size=32))
    subject = dataclasses.replace(subject, loader=plain)  # a dozen images are learned by heart
    history = Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


@pytest.mark.parametrize("l2_decay", [0.0, 0.01])
def test_updates_are_those_of_momentum_with_l2_decay(images, tmp_path, l2_decay):
    slope = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    subject = training(images)
    weight = subject.model.fc.weight
    subject = dataclasses.replace(
        subject,
        objective=lambda m, batch: ((m.fc.weight * slope).sum(), paddle.zeros([4, 3])),
    )
    expected, velocity = weight.numpy().astype(np.float64), 0.0
    before = state_of(subject.model)
    config = CONFIG.model_copy(update={"regularizer": Regularizer(factor=l2_decay)})
    Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()
    for step in range(STEPS):
        velocity = 0.9 * velocity + slope + l2_decay * expected
        expected = expected - RATES[step] * velocity
    assert np.allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-6)
    after = state_of(subject.model)
    assert [n for n in after if not np.array_equal(after[n], before[n])] == ["fc.weight"]


@pytest.mark.parametrize(
    "value", others_slow([float("nan"), float("inf"), float("-inf")], [float("inf")])
)
@pytest.mark.parametrize("failing", [4, 5, 8])  # within an epoch, at its end, and at the last
def test_loss_that_is_not_finite_is_an_error_and_never_kept(images, tmp_path, value, failing):
    calls = []

    def objective(model, batch):
        loss, logits = cross_entropy(0.0)(model, batch)
        calls.append(0)
        return (loss * value if len(calls) == failing + 1 else loss), logits

    message = rf"loss is -?(nan|inf) at step {failing}, the rate 0\.0\d+: lower `lr` or"
    for save_seconds in (0, 1e9):
        calls.clear()
        subject, directory = training(images, objective=objective), tmp_path / str(save_seconds)
        directory.mkdir()
        with pytest.raises(UserError, match=message):
            Trainer(subject, CONFIG, directory, save_seconds, SilentMonitor()).fit()
        assert len(calls) <= failing + 2  # one step was under way
        for path in directory.iterdir():
            arrays = {n: a for n, a in load_state(path).items() if isinstance(a, np.ndarray)}
            assert all(np.isfinite(array).all() for array in arrays.values())
    kept, monitor = training(images, seed=5), Stopper(failing + 1)
    with pytest.raises(Interrupted):
        Trainer(kept, CONFIG, tmp_path / "0", 1e9, monitor).fit()
    assert monitor.notes == [f"resumes at step {failing} of 9"]


def test_weights_that_run_away_after_the_last_loss_are_an_error(images, tmp_path):
    calls = []

    def objective(model, batch):
        loss, logits = cross_entropy(0.0)(model, batch)
        calls.append(0)
        if len(calls) == STEPS:  # a term of value 0 and gradient 6e38, above what float32 holds
            huge = 3e38 * model.fc.bias.sum()
            loss = loss + (huge - huge.detach()) + (huge - huge.detach())
        return loss, logits

    with pytest.raises(UserError, match=r"fc.bias of the model is not finite after step 8: lower"):
        Trainer(training(images, objective=objective), CONFIG, tmp_path, 1e9, SilentMonitor()).fit()


def test_frozen_backbone_stays_as_it_is(images, tmp_path):
    subject = training(images)
    subject.model.eval()
    learning = classifier_parameters(subject.model)
    for parameter in subject.model.parameters():
        parameter.stop_gradient = all(parameter is not p for p in learning)
    before = state_of(subject.model)
    Trainer(subject, CONFIG, tmp_path, 0, SilentMonitor()).fit()
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
        return subject

    whole, history = run_with_stops(make, tmp_path / "whole", [])
    last, resumed = run_with_stops(make, tmp_path / "parts", [4])
    assert resumed == history
    assert_same_state(state_of(last.model), state_of(whole.model))


def test_damaged_checkpoint_is_an_error_with_a_remedy(images, reference, tmp_path):
    (tmp_path / checkpoint.FILE).write_bytes(damaged(reference.checkpoints[4]))
    with pytest.raises(UserError, match="damaged checkpoint; delete it to train from the start"):
        Trainer(training(images), CONFIG, tmp_path, 1e9, SilentMonitor()).fit()


def test_damaged_newest_goes_on_from_the_one_before_and_ends_the_same(images, reference, tmp_path):
    (tmp_path / checkpoint.FILE).write_bytes(damaged(reference.checkpoints[4]))
    (tmp_path / checkpoint.PREVIOUS).write_bytes(reference.checkpoints[3])
    resumed, monitor = training(images, seed=5), Stopper()
    assert Trainer(resumed, CONFIG, tmp_path, 1e9, monitor).fit() == reference.history
    assert "goes on from the one before" in monitor.notes[0]
    assert monitor.notes[1] == "resumes at step 3 of 9"
    assert_same_state(state_of(resumed.model), reference.state)


def damaged(data):
    data = bytearray(data)
    data[len(data) // 2] ^= 1
    return bytes(data)


ADDITIONS = {
    "plain": {},
    "ema": {"ema_decay": 0.7},
    "accumulate": {"accumulate": 2},
    "all": {"ema_decay": 0.7, "accumulate": 4, "clip_norm": 0.5},
}


@pytest.mark.parametrize("optimizer", [Momentum(), RMSProp(), Adam()], ids=lambda o: o.name)
@pytest.mark.parametrize("addition", others_slow(ADDITIONS, ["all"]))
def test_every_kind_of_training_is_resumed_exactly(images, tmp_path, optimizer, addition):
    config = CONFIG.model_copy(update={"optimizer": optimizer, "lr": 0.01, **ADDITIONS[addition]})
    rng = random.Random(f"{optimizer.name} {addition}")
    digests = {}
    for name, stops in (("whole", []), ("parts", sorted(rng.sample(range(1, STEPS), 3)))):
        directory = tmp_path / name

        def make(attempt):
            return training(images, workers=rng.randint(1, 5), seed=1 if attempt == 0 else 99)

        last, history = run_with_stops(make, directory, [*stops, STEPS], config)
        files = [(directory / file).read_bytes() for file in (checkpoint.FILE, BEST)]
        final = {n: v.tobytes() for n, v in state_of(last.model).items()}
        digests[name] = (files, final, history, last.position.rejected)
    assert digests["whole"] == digests["parts"], stops


def test_parameter_without_a_gradient_stays_resumed_or_not(images, tmp_path):
    uses = []

    def objective(model, batch):
        loss = model.fc.weight.sum()
        uses.append(int(batch.pixels.numpy().sum()) % 2)
        return (loss + model.fc.bias.sum() if uses[-1] else loss), paddle.zeros([4, 3])

    def make(attempt):
        return training(images, objective=objective, seed=1 if attempt == 0 else 99)

    whole, _ = run_with_stops(make, tmp_path / "whole", [])
    assert 1 in uses[:-1]
    assert 0 in uses
    for stop in range(1, STEPS):
        last, _ = run_with_stops(make, tmp_path / str(stop), [stop])
        assert_same_state(state_of(last.model), state_of(whole.model))


@pytest.fixture
def pretend_gpu(monkeypatch):
    """A loss scaler that works, as on a GPU; the forward pass stays float32."""

    class Place:
        is_gpu_place = is_xpu_place = is_custom_place = staticmethod(lambda: True)

    tracer = type("Tracer", (), {"_expected_place": Place})
    state = type("Global", (), {"amp_dtype": "float16"})
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: tracer)
    monkeypatch.setattr("paddle.amp.grad_scaler.amp_global_state", lambda: state)
    monkeypatch.setattr(Precision, "check", lambda self: None)
    monkeypatch.setattr(Precision, "autocast", lambda self: nullcontext())


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_loss_scaling_is_resumed_exactly(pretend_gpu, images, tmp_path, scale):
    """From 2 ** 127 on, the first steps overflow, are left out and halve the scale."""
    precision = Precision(dtype="fp16", loss_scale=scale)
    config = CONFIG.model_copy(update={"precision": precision, "ema_decay": 0.7})
    whole, history = run_with_stops(lambda _: training(images), tmp_path / "1", [9], config)
    last, resumed = run_with_stops(
        lambda attempt: training(images, seed=1 if attempt == 0 else 99),
        tmp_path / "2",
        [1, 2, 4, 9],
        config,
    )
    one, other = ((tmp_path / n / checkpoint.FILE).read_bytes() for n in "12")
    assert one == other
    assert resumed == history
    assert_same_state(state_of(last.model), state_of(whole.model))


def test_step_that_overflows_is_left_out(pretend_gpu, images, tmp_path):
    precision = Precision(dtype="fp16", loss_scale=2.0**127, dynamic=False)
    config = CONFIG.model_copy(update={"precision": precision, "epochs": 1})
    subject = training(images)
    before = {n: p.numpy() for n, p in subject.model.named_parameters() if p.trainable}
    Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()
    after = {n: p.numpy() for n, p in subject.model.named_parameters() if p.trainable}
    assert_same_state(before, after)


def overflowing(steps):
    """An objective whose forward pass overflows in these calls, as fp16's may: statistics too."""
    calls = []

    def objective(model, batch):
        calls.append(0)
        loss, logits = cross_entropy(0.0)(model, batch)
        if len(calls) - 1 in steps:
            norm = model.stem[0].bn
            norm._mean.set_value(np.full(norm._mean.shape, np.inf, np.float32))
            return loss * float("inf"), logits
        return loss, logits

    return objective


def test_overflow_of_the_forward_pass_is_left_out_and_counted(pretend_gpu, images, tmp_path):
    precision = Precision(dtype="fp16", loss_scale=2.0**10)
    config = CONFIG.model_copy(update={"precision": precision, "ema_decay": 0.7})
    whole = Trainer(
        training(images, objective=overflowing([1, 5])), config, tmp_path / "1", 0, Stopper()
    )
    history = whole.fit()
    assert [row.get("overflows") for row in history] == [1, 1, None]
    assert all(np.isfinite(row["loss"]) for row in history)
    parts = tmp_path / "2"
    with pytest.raises(Interrupted):
        first = training(images, objective=overflowing([1]))
        Trainer(first, config, parts, 1e9, Stopper(2)).fit()
    rest = training(images, objective=overflowing([3]), seed=99)
    assert Trainer(rest, config, parts, 1e9, Stopper()).fit() == history
    assert_same_state(state_of(rest.model), state_of(whole.model))


def test_overflows_without_end_are_an_error(pretend_gpu, images, tmp_path):
    precision = Precision(dtype="fp16", loss_scale=2.0**10)
    config = CONFIG.model_copy(update={"precision": precision})
    subject = training(images, objective=overflowing(range(9)))
    with pytest.raises(UserError, match="the loss is inf at step 2"):  # all three of an epoch
        Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()


def test_scaled_loss_gives_the_same_updates(pretend_gpu, images, reference, tmp_path):
    precision = Precision(dtype="fp16", loss_scale=1024.0)
    subject = training(images)
    config = CONFIG.model_copy(update={"precision": precision})
    Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()
    assert_same_state(state_of(subject.model), reference.state)  # a power of two costs no bit


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_add_up_to_its_loss_and_gradient(images, tmp_path, accumulate):
    results = []
    for parts in (1, accumulate):
        subject = training(images)
        subject.model.eval()  # batch norm would see the parts
        config = CONFIG.model_copy(update={"accumulate": parts, "epochs": 1, "eval_every": 9})
        history = Trainer(subject, config, tmp_path / str(parts), 1e9, SilentMonitor()).fit()
        results.append((history[0]["loss"], state_of(subject.model)))
    (loss, state), (other_loss, other) = results
    assert loss == pytest.approx(other_loss, rel=1e-6)
    start = state_of(network("ResNet18_vd", 1))["fc.weight"]
    assert np.abs(state["fc.weight"] - start).max() > 1e-3
    for name, value in other.items():
        assert np.allclose(value, state[name], rtol=1e-4, atol=1e-6), name


def test_running_means_move_as_if_the_batch_were_one(images, tmp_path):
    """The mean over equal parts of their means is the batch's; of the first layer, in one step."""
    means = []
    for parts in (1, 2, 4):
        subject = training(images)
        before = subject.model.stem[0].bn._mean.numpy()
        config = CONFIG.model_copy(update={"accumulate": parts})
        with pytest.raises(Interrupted):
            Trainer(subject, config, tmp_path / str(parts), 1e9, Stopper(1)).fit()
        means.append(subject.model.stem[0].bn._mean.numpy())
        assert np.abs(means[-1] - before).max() > 1e-3
    assert np.allclose(means[1], means[0], atol=1e-6)
    assert np.allclose(means[2], means[0], atol=1e-6)


def test_average_is_validated_delivered_and_best(images, tmp_path):
    config = CONFIG.model_copy(update={"ema_decay": 0.7, "eval_every": 3})
    subject = training(images)
    weights, validated = [], []

    def objective(model, batch):
        weights.append(model.fc.weight.numpy())
        return cross_entropy(0.1)(model, batch)

    def validate(model):
        validated.append(state_of(model))
        return {"top1": 0.5}

    Trainer(
        dataclasses.replace(subject, objective=objective, validate=validate),
        config,
        tmp_path,
        0,
        SilentMonitor(),
    ).fit()
    stored = load_state(tmp_path / checkpoint.FILE)
    weights.append(stored["model/fc.weight"])  # after the last step
    expected = weights[0]
    for step, value in enumerate(weights[1:]):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    delivered = state_of(subject.model)
    assert np.allclose(delivered["fc.weight"], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(delivered["fc.weight"] - weights[-1]).max() > 1e-3
    assert_same_state(delivered, validated[0])
    assert_same_state(delivered, load_state(tmp_path / BEST))


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.3, 0.2), 1), ((0.3, 0.3, 0.2), 0), ((0.0, 0.0, 0.1), 2)]
)
def test_best_weights_are_those_of_the_highest_top1_the_earlier_of_equals(
    images, tmp_path, scores, best
):
    seen = []

    def validate(model):
        seen.append(state_of(model))
        return {"top1": scores[len(seen) - 1]}

    subject = dataclasses.replace(training(images), validate=validate)
    config = CONFIG.model_copy(update={"eval_every": 1})
    history = Trainer(subject, config, tmp_path, 1e9, SilentMonitor()).fit()
    assert [row["top1"] for row in history] == list(scores)
    assert_same_state(seen[best], load_state(tmp_path / BEST))
    assert_same_state(seen[2], state_of(subject.model))


def test_every_step_is_reported(images, tmp_path):
    reports, outputs = [], []

    def objective(model, batch):
        loss, logits = cross_entropy(0.1)(model, batch)
        outputs.append((float(loss), logits.numpy(), batch.labels.numpy()))
        return loss, logits

    subject = dataclasses.replace(training(images, objective=objective), on_step=reports.append)
    Trainer(subject, CONFIG, tmp_path, 1e9, SilentMonitor()).fit()
    assert [report.step for report in reports] == list(range(STEPS))
    assert [report.lr for report in reports] == RATES
    assert [report.loss for report in reports] == [loss for loss, _, _ in outputs]
    assert [report.top1 for report in reports] == [
        float((logits.argmax(1) == labels).mean()) for _, logits, labels in outputs
    ]
    assert {report.topk for report in reports} == {1.0}  # of three classes


def test_batch_that_does_not_divide_is_a_mistake_of_the_recipe():
    with pytest.raises(ValueError, match="does not divide a batch_size of 4"):
        TrainConfig(epochs=1, batch_size=4, accumulate=3)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_killed_processes_leave_no_trace():
    """SIGKILL at random moments, in a process of its own each."""
    command = [sys.executable, str(PROJECT / "benchmarks" / "resume.py"), "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 equal" in done.stdout
