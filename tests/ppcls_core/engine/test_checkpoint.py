"""Checkpoints: everything comes back, and no damage goes unseen."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.utils import unique_name

from data_catalog.base.config import UserError
from ppcls_core.engine import checkpoint
from ppcls_core.engine.averages import Average
from ppcls_core.engine.checkpoint import FILE, PREVIOUS, Position, State, restore, save
from ppcls_core.engine.optimizers import Adam, Momentum, Regularizer, RMSProp, make_optimizer
from ppcls_core.models.networks.layers import ConvBN
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import SilentMonitor

POSITION = Position(
    step=7,
    loss_sum=0.1 + 0.2,
    history=[{"epoch": 1, "loss": 1 / 3, "lr": 1e-300}, {"epoch": 2, "loss": 2.5, "top1": 0.25}],
    rejected={"ä/1.jpg": ("truncated", "the JPEG data end"), "a.png": ("missing", "")},
)


def network(features=3, seed=0):
    paddle.seed(seed)
    with unique_name.guard():
        return paddle.nn.Sequential(
            ConvBN((features, 4), 1), paddle.nn.Flatten(), paddle.nn.Linear(4, 2)
        )


class Scaler:
    """A loss scaler's state; a real one needs a GPU."""

    def __init__(self, scale, good_steps):
        self.values = {"scale": np.array([scale], np.float32), "incr_count": good_steps}

    def state_dict(self):
        return dict(self.values)

    def load_state_dict(self, values):
        self.values = values


def fresh(seed=0, features=3, config=Momentum(), decay=0.9):  # noqa: B008
    model = network(features, seed)
    learning = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = make_optimizer(config, learning, Regularizer(), None)
    scaler = paddle.amp.GradScaler(enable=False)
    return State(model, optimizer, scaler, Average(model, decay) if decay else None)


def step(state, seed):
    x = np.random.default_rng(seed).normal(size=(5, 3, 1, 1)).astype(np.float32)
    (state.model(paddle.to_tensor(x)) ** 2).sum().backward()
    state.optimizer.set_lr(0.1)
    state.optimizer.step()
    state.optimizer.clear_grad(set_to_zero=False)
    if state.average:
        state.average.update(seed)


class Listener(SilentMonitor):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def contents(state):
    """Every bit that a training goes on from."""
    tensors = state_of(state.model) | {
        k: v.numpy() for k, v in state.optimizer.state_dict().items()
    }
    if state.average:
        tensors |= {f"average {name}": v.numpy() for name, v in state.average.values.items()}
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint after two steps and its state's contents."""
    directory, state = tmp_path_factory.mktemp("whole"), fresh()
    step(state, 0)
    step(state, 1)
    state.position = POSITION
    save(directory, state)
    return (directory / FILE).read_bytes(), contents(state)


@pytest.mark.parametrize("config", [Momentum(), RMSProp(), Adam()], ids=repr)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_everything_comes_back_exactly_and_goes_on_exactly(tmp_path, config, decay):
    state = fresh(config=config, decay=decay)
    for seed in range(3):
        step(state, seed)
    state.position = POSITION
    save(tmp_path, state)
    other = fresh(seed=9, config=config, decay=decay)
    step(other, 7)  # what was there before must not show
    restore(tmp_path, other, SilentMonitor())
    assert other.position == POSITION
    assert contents(other) == contents(state)
    for each in (state, other):
        step(each, 3)
    assert contents(other) == contents(state)


def test_saving_what_was_just_restored_gives_the_same_bytes(whole, tmp_path):
    (tmp_path / FILE).write_bytes(whole[0])
    state = fresh(seed=9)
    restore(tmp_path, state, SilentMonitor())
    save(tmp_path, state)
    assert (tmp_path / FILE).read_bytes() == (tmp_path / PREVIOUS).read_bytes() == whole[0]


def test_the_loss_scalers_state_comes_back(tmp_path):
    state, other = fresh(), fresh()
    state.scaler, other.scaler = Scaler(2.0**127 * 1.9, 1999), Scaler(1.0, 0)
    save(tmp_path, state)
    restore(tmp_path, other, SilentMonitor())
    assert other.scaler.values == state.scaler.values
    assert other.scaler.values["scale"].dtype == np.float32


def test_without_a_checkpoint_training_starts_at_the_beginning(tmp_path):
    state = fresh()
    before = contents(state)
    restore(tmp_path, state, SilentMonitor())
    assert state.position == Position(0, 0.0, [], {})
    assert contents(state) == before


def test_failed_save_leaves_the_checkpoints_as_they_are(whole, tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(whole[0])
    (tmp_path / PREVIOUS).write_bytes(b"the one before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, fresh())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([FILE, PREVIOUS])
    assert (tmp_path / FILE).read_bytes() == whole[0]
    assert (tmp_path / PREVIOUS).read_bytes() == b"the one before"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("entry", ["0.conv.weight", "0.bn._variance"])
def test_weights_that_are_not_finite_are_not_saved(whole, tmp_path, value, entry):
    (tmp_path / FILE).write_bytes(whole[0])
    state = fresh()
    state.position.step = 12
    tensor = state.model.state_dict()[entry]
    tensor.set_value(np.full(tensor.shape, value, np.float32))
    with pytest.raises(
        UserError, match=rf"{entry} of the model is not finite after step 11: lower"
    ):
        save(tmp_path, state)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == whole[0]


def restore_error(directory, data, state=None):
    (directory / FILE).write_bytes(data)
    state = state or fresh()
    before = contents(state)
    with pytest.raises(UserError, match="delete it to train from the start") as caught:
        restore(directory, state, SilentMonitor())
    assert contents(state) == before
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x80\x04}.", b"not a checkpoint", b"\0" * 4096])
def test_other_content_is_refused(tmp_path, data):
    assert "damaged checkpoint" in restore_error(tmp_path, data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flipped_bit_goes_unseen(whole, tmp_path_factory, data):
    content = bytearray(whole[0])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    directory = tmp_path_factory.mktemp("flipped")
    (directory / FILE).write_bytes(content)
    state = fresh(seed=9)
    try:
        restore(directory, state, SilentMonitor())
    except UserError as error:
        assert "delete it to train from the start" in str(error)
    else:  # a bit of the pickle's frame that says nothing
        assert state.position == POSITION
        assert contents(state) == whole[1]


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(whole, tmp_path_factory, part):
    data = whole[0]
    assert "damaged checkpoint" in restore_error(
        tmp_path_factory.mktemp("truncated"), data[: int(part * len(data))]
    )


@pytest.mark.parametrize(
    "state",
    [
        lambda: fresh(features=5),
        lambda: fresh(config=Adam()),
        lambda: fresh(decay=None),
    ],
)
def test_checkpoint_of_another_training_is_refused(whole, tmp_path, state):
    (tmp_path / PREVIOUS).write_bytes(whole[0])
    assert "of another model or optimizer" in restore_error(tmp_path, whole[0], state())


def two_saves(directory):
    """Checkpoints after one step and after two; the contents at each."""
    state, found = fresh(), []
    for seed in (0, 1):
        step(state, seed)
        state.position.step = seed + 1
        save(directory, state)
        found.append(contents(state))
    return found


def test_two_generations_are_kept(tmp_path):
    first, second = two_saves(tmp_path)
    for name, expected in ((FILE, second), (PREVIOUS, first)):
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / FILE).write_bytes((tmp_path / name).read_bytes())
        state = fresh(seed=5)
        restore(tmp_path / "one", state, SilentMonitor())
        assert contents(state) == expected


@pytest.mark.parametrize("damage", [b"", b"\0" * 100])
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    first, _ = two_saves(tmp_path)
    good = (tmp_path / PREVIOUS).read_bytes()
    (tmp_path / FILE).write_bytes(damage)
    state, listener = fresh(seed=5), Listener()
    restore(tmp_path, state, listener)
    assert (contents(state), state.position.step) == (first, 1)
    (note,) = listener.notes
    assert f"{FILE}: damaged checkpoint; goes on from the one before" in note
    save(tmp_path, state)  # the damaged one is not kept in the good one's place
    assert (tmp_path / PREVIOUS).read_bytes() == good


def test_kill_between_the_two_renames_leaves_the_one_before(tmp_path):
    first, _ = two_saves(tmp_path)
    (tmp_path / FILE).unlink()
    state, listener = fresh(seed=5), Listener()
    restore(tmp_path, state, listener)
    assert contents(state) == first
    assert listener.notes == []


def test_both_damaged_is_an_error_that_names_both(tmp_path):
    (tmp_path / PREVIOUS).write_bytes(b"")
    message = restore_error(tmp_path, b"")
    assert FILE in message
    assert PREVIOUS in message


def test_values_come_back_where_they_lie(tmp_path, monkeypatch):
    """On a GPU Adam's powers of beta are on the CPU, where a resumed one must have them too."""
    state = fresh(config=Adam())
    step(state, 0)
    save(tmp_path, state)
    other, places, made = fresh(seed=9, config=Adam()), [], paddle.to_tensor
    expected = [tensor.place for tensor in checkpoint._tensors(other).values()]

    def to_tensor(values, place=None):
        places.append(place)
        return made(values, place=place)

    monkeypatch.setattr(paddle, "to_tensor", to_tensor)
    restore(tmp_path, other, SilentMonitor())
    assert list(map(str, places)) == list(map(str, expected))
    assert contents(other) == contents(state)
