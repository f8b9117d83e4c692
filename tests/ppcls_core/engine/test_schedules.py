"""Every schedule at every step against the published formula, written down a second time."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ppcls_core.engine.config import TrainConfig
from ppcls_core.engine.schedules import (
    Cosine,
    CosineWarmup,
    ExponentialWarmup,
    Length,
    Linear,
    Piecewise,
)

LR = 3.65625


def rates(schedule, steps, epochs, lr=LR):
    return [schedule(t, lr, Length(epochs, steps)) for t in range(steps * epochs)]


def linear(t, steps, epochs, end):
    return (LR - end) * (1 - t / (steps * epochs)) + end


def cosine(t, steps, epochs):
    return LR / 2 * (1 + math.cos(math.pi * (t // steps) / epochs))


def cosine_warmup(t, steps, epochs, warmup):
    if t // steps < warmup:
        return LR * t / (steps * warmup)
    return LR / 2 * (1 + math.cos(math.pi * (t - steps * warmup) / ((epochs - warmup) * steps)))


def exponential_warmup(t, steps, warmup):
    if t // steps < warmup:
        return LR * t / (steps * warmup)
    return LR * 0.97 ** math.floor(Fraction(t - steps * warmup) / (Fraction(24, 10) * steps))


@pytest.mark.parametrize("epochs", [1, 2, 6, 30, 360])
@pytest.mark.parametrize("steps", [1, 7, 10])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_equal_to_the_published_formula_at_every_step(epochs, steps, warmup):
    pairs = {
        Linear(): lambda t: linear(t, steps, epochs, 0),
        Linear(end_lr=0.25): lambda t: linear(t, steps, epochs, 0.25),
        Cosine(): lambda t: cosine(t, steps, epochs),
        ExponentialWarmup(warmup_epochs=warmup): lambda t: exponential_warmup(t, steps, warmup),
    }
    if warmup <= epochs:
        pairs[CosineWarmup(warmup_epochs=warmup)] = lambda t: cosine_warmup(
            t, steps, epochs, warmup
        )
    for schedule, formula in pairs.items():
        expected = [formula(t) for t in range(steps * epochs)]
        assert rates(schedule, steps, epochs) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_linear_stays_at_the_end_rate_after_its_steps():
    got = rates(Linear(steps=8, end_lr=0.5), 4, 3)
    assert got[:8] == pytest.approx([LR + (0.5 - LR) * t / 8 for t in range(8)])
    assert got[8:] == [0.5] * 4


def test_cosine_is_one_stair_an_epoch():
    got = rates(Cosine(), 4, 3)
    assert [len(set(got[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert got[::4] == pytest.approx([LR, 0.75 * LR, 0.25 * LR])


def test_piecewise_falls_with_the_first_step_of_each_epoch_named():
    got = rates(Piecewise(decay_epochs=(2, 3), gamma=0.1), 5, 5)
    assert got == pytest.approx([LR] * 10 + [LR * 0.1] * 5 + [LR * 0.01] * 10, rel=1e-12)


@pytest.mark.parametrize("epochs", [(30, 20), (30, 30)])
def test_piecewise_wants_rising_epochs(epochs):
    with pytest.raises(ValidationError, match="must rise from one epoch"):
        Piecewise(decay_epochs=epochs)


@pytest.mark.parametrize("steps", [5, 10, 1250, 5004])
def test_exponential_falls_exactly_at_multiples_of_two_point_four_epochs(steps):
    schedule, length = ExponentialWarmup(warmup_epochs=5), Length(1000, steps)
    for stair in (1, 2, 5, 50, 350):
        border = 5 * steps + math.ceil(Fraction(12, 5) * steps * stair)
        before, after = (schedule(t, 1.0, length) for t in (border - 1, border))
        assert (before, after) == (pytest.approx(0.97 ** (stair - 1)), pytest.approx(0.97**stair))


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0, 50), st.floats(1e-6, 10))
def test_any_warm_up_rises_without_a_jump_and_then_falls(steps, epochs, warmup, lr):
    got = rates(CosineWarmup(warmup_epochs=warmup), steps, epochs, lr)
    assert all(0 <= rate <= lr * (1 + 1e-12) for rate in got)
    start = math.ceil(min(warmup, epochs) * steps)
    assert got[:start] == sorted(got[:start])
    assert got[start:] == sorted(got[start:], reverse=True)


def test_fractional_warm_up_reaches_the_peak_in_the_middle_of_an_epoch():
    got = rates(CosineWarmup(warmup_epochs=1.5), 4, 3, 0.6)
    assert got[:7] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert got[9] == pytest.approx(0.3)


@pytest.mark.parametrize("warmup", [3, 5, 1000])
def test_warm_up_longer_than_the_training_is_shortened_to_it(warmup):
    got = rates(CosineWarmup(warmup_epochs=warmup), 2, 3, 0.6)
    assert got == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_recipe_chooses_by_name():
    chosen = TrainConfig.model_validate({"epochs": 1, "schedule": {"name": "Piecewise"}})
    assert chosen.schedule == Piecewise()
    assert TrainConfig(epochs=1).schedule == CosineWarmup(warmup_epochs=5)
    with pytest.raises(ValidationError, match=r"'Cosin'.*'CosineWarmup'"):
        TrainConfig.model_validate({"epochs": 1, "schedule": {"name": "Cosin"}})
