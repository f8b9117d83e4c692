"""CosineWarmup at every step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppcls_core.engine.schedules import cosine_warmup


def published(t, steps, epochs, warmup, lr):
    """The formula as PaddleClas's documents state it, for whole epochs of warm-up."""
    if t // steps < warmup:
        return lr * t / (steps * warmup)
    return lr / 2 * (1 + math.cos(math.pi * (t - steps * warmup) / ((epochs - warmup) * steps)))


@pytest.mark.parametrize("epochs", [1, 2, 6, 30, 360])
@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("steps", [1, 7])
def test_equals_the_published_formula_at_every_step(epochs, warmup, steps):
    if warmup > epochs:
        return
    for t in range(epochs * steps):
        got = cosine_warmup(t, steps, epochs, warmup, 3.65625)
        assert got == pytest.approx(published(t, steps, epochs, warmup, 3.65625), rel=1e-12)


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0, 50), st.floats(1e-6, 10))
def test_any_warm_up_rises_without_a_jump_and_then_falls(steps, epochs, warmup, lr):
    rates = [cosine_warmup(t, steps, epochs, warmup, lr) for t in range(steps * epochs)]
    assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
    start = math.ceil(min(warmup, epochs) * steps)
    assert rates[:start] == sorted(rates[:start])
    assert rates[start:] == sorted(rates[start:], reverse=True)


def test_fractional_warm_up_reaches_the_peak_in_the_middle_of_an_epoch():
    rates = [cosine_warmup(t, 4, 3, 1.5, 0.6) for t in range(12)]
    assert rates[:7] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert rates[9] == pytest.approx(0.3)


@pytest.mark.parametrize("warmup", [3, 5, 1000])
def test_warm_up_longer_than_the_training_is_shortened_to_it(warmup):
    rates = [cosine_warmup(t, 2, 3, warmup, 0.6) for t in range(6)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
