"""Checkpoints: everything comes back, and no damage goes unseen."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.utils import unique_name

from data_catalog.config import UserError
from ppcls_core.engine.checkpoint import FILE, Position, restore, save
from ppcls_core.models.layers import ConvBN
from ppcls_core.models.weights import state_of

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


def optimizer_of(model):
    return paddle.optimizer.Momentum(0.1, 0.9, parameters=model.parameters())


def step(model, optimizer, seed):
    x = np.random.default_rng(seed).normal(size=(5, 3, 1, 1)).astype(np.float32)
    (model(paddle.to_tensor(x)) ** 2).sum().backward()
    with unique_name.guard():
        optimizer.step()
    optimizer.clear_grad()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint after two steps, its model's state, and that after a third step."""
    directory, model = tmp_path_factory.mktemp("whole"), network()
    optimizer = optimizer_of(model)
    step(model, optimizer, 0)
    step(model, optimizer, 1)
    save(directory, model, optimizer, POSITION)
    before = state_of(model)
    step(model, optimizer, 2)
    return (directory / FILE).read_bytes(), before, state_of(model)


def assert_same(state, other):
    assert {n: v.tobytes() for n, v in state.items()} == {n: v.tobytes() for n, v in other.items()}


def test_model_optimizer_and_position_come_back_exactly(whole, tmp_path):
    data, before, after = whole
    (tmp_path / FILE).write_bytes(data)
    model = network(seed=9)
    optimizer = optimizer_of(model)
    assert restore(tmp_path, model, optimizer) == POSITION
    assert_same(state_of(model), before)
    step(model, optimizer, 2)
    assert_same(state_of(model), after)


def test_saving_what_was_restored_gives_the_same_bytes(whole, tmp_path):
    (tmp_path / FILE).write_bytes(whole[0])
    model = network(seed=9)
    optimizer = optimizer_of(model)
    at = restore(tmp_path, model, optimizer)
    step(model, optimizer, 2)
    (tmp_path / "again").mkdir()
    save(tmp_path / "again", model, optimizer, at)
    other = network(seed=4)
    other_optimizer = optimizer_of(other)
    assert restore(tmp_path / "again", other, other_optimizer) == POSITION
    step(other, other_optimizer, 3)
    step(model, optimizer, 3)
    assert_same(state_of(other), state_of(model))


def test_without_a_checkpoint_training_starts_at_the_beginning(tmp_path):
    model = network()
    before = state_of(model)
    assert restore(tmp_path, model, optimizer_of(model)) == Position(0, 0.0, [], {})
    assert_same(state_of(model), before)


def test_failed_save_leaves_the_previous_checkpoint(whole, tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(whole[0])
    model = network()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, model, optimizer_of(model), Position())
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == whole[0]


def restore_error(directory, data, model=None):
    (directory / FILE).write_bytes(data)
    model = model or network()
    before = state_of(model)
    with pytest.raises(UserError, match="delete it to train from the start") as caught:
        restore(directory, model, optimizer_of(model))
    assert_same(state_of(model), before)
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
    model = network(seed=9)
    try:
        at = restore(directory, model, optimizer_of(model))
    except UserError as error:
        assert "delete it to train from the start" in str(error)
    else:  # a bit of the pickle's frame that says nothing
        assert at == POSITION
        assert_same(state_of(model), whole[1])


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_file_is_refused(whole, tmp_path_factory, part):
    data = whole[0]
    assert "damaged checkpoint" in restore_error(
        tmp_path_factory.mktemp("truncated"), data[: int(part * len(data))]
    )


def test_checkpoint_of_another_model_is_refused(whole, tmp_path):
    assert "of another model" in restore_error(tmp_path, whole[0], network(features=5))
    assert "of another model" in restore_error(tmp_path, whole[0], paddle.nn.Linear(3, 4))
