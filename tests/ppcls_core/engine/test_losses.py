"""The losses against their definitions in float64, and where float32 runs out."""

import math
from typing import get_args

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppcls_core.engine.losses import LOSSES, LossName

LOGITS = st.floats(-30, 30, width=32)


@st.composite
def pairs(draw):
    """(student, teacher) logits float32 [N, C]."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 12)))
    return draw(arrays(np.float32, shape, elements=LOGITS)), draw(
        arrays(np.float32, shape, elements=LOGITS)
    )


def log_softmax(z):
    z = z.astype(np.float64) - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kl(log_a, log_b):
    return (np.exp(log_a) * (log_a - log_b)).sum(-1)


def definition(name, student, teacher):
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    return {
        "ssld": (kl(log_q, log_p) + kl(log_p, log_q)) / 2,
        "js": (kl(log_p, log_m) + kl(log_q, log_m)) / 2,
        "kl": kl(log_q, log_p),
        "ce": -(np.exp(log_q) * log_p).sum(-1),
    }[name].mean()


def gradient_formula(name, student, teacher):
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    return {
        "ssld": (p - q + p * (log_p - log_q - kl(log_p, log_q)[:, None])) / 2,
        "js": p * (log_p - log_m - kl(log_p, log_m)[:, None]) / 2,
        "kl": p - q,
        "ce": p - q,
    }[name] / len(p)


def value_and_gradient(name, student, teacher):
    z = paddle.to_tensor(student, stop_gradient=False)
    loss = LOSSES[name](z, paddle.to_tensor(teacher))
    loss.backward()
    assert loss.shape == []
    assert z.grad is not None
    return float(loss), z.grad.numpy()


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=60, deadline=None)
@given(pairs())
def test_value_and_gradient_are_those_of_the_definition(name, pair):
    value, gradient = value_and_gradient(name, *pair)
    assert value == pytest.approx(definition(name, *pair), rel=1e-5, abs=1e-5)
    assert np.allclose(gradient, gradient_formula(name, *pair), rtol=1e-4, atol=2e-5)


def test_every_name_that_a_recipe_may_give_has_a_loss():
    assert get_args(LossName) == tuple(LOSSES)


def test_formula_of_the_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 4, 7))
    for name in LOSSES:
        step = np.zeros_like(student)
        step[2, 3] = 1e-5
        up, down = (
            definition(name, student + step, teacher),
            definition(name, student - step, teacher),
        )
        formula = gradient_formula(name, student, teacher)[2, 3]
        assert (up - down) / 2e-5 == pytest.approx(formula, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, (2, 2, 6), elements=st.sampled_from([-1e4, -88.0, 0.0, 104.0, 1e4])))
def test_finite_and_not_negative_where_probabilities_underflow(name, logits):
    value, gradient = value_and_gradient(name, *logits)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value >= -1e-6
    assert value == pytest.approx(definition(name, *logits), rel=1e-5, abs=1e-5)
    # p (log p/q - KL) is a difference of numbers as large as the logits.
    rounding = 1e-5 + 2e-7 * np.abs(logits).max()
    assert np.allclose(gradient, gradient_formula(name, *logits), rtol=1e-4, atol=rounding)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (2, 3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_js_never_exceeds_ln_2(logits):
    value, _ = value_and_gradient("js", *logits)
    assert value <= math.log(2) + 1e-6


def test_js_reaches_ln_2_where_the_published_loss_has_no_bound():
    one, other = np.array([[100.0, 0.0]], np.float32), np.array([[0.0, 100.0]], np.float32)
    assert value_and_gradient("js", one, other)[0] == pytest.approx(math.log(2))
    assert value_and_gradient("ssld", one, other)[0] == pytest.approx(100)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (3, 6), elements=LOGITS))
def test_least_with_zero_gradient_for_equal_logits(name, logits):
    value, gradient = value_and_gradient(name, logits, logits)
    entropy = definition("ce", logits, logits)
    assert value == pytest.approx(entropy if name == "ce" else 0, rel=1e-5, abs=1e-6)
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(pairs(), st.integers(-64, 64), st.integers(-64, 64))
def test_adding_a_constant_to_an_images_logits_changes_nothing(name, pair, shift, other):
    value, gradient = value_and_gradient(name, *pair)
    moved, moved_gradient = value_and_gradient(name, pair[0] + shift, pair[1] + other)
    assert moved == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert np.allclose(moved_gradient, gradient, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_published_loss_and_js_are_symmetric(pair):
    for name in ("ssld", "js"):
        one, other = value_and_gradient(name, *pair)[0], value_and_gradient(name, *pair[::-1])[0]
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
