"""Updates against the optimizers' formulas in float64, with what single parameters ask for."""

import numpy as np
import paddle
import pytest
from paddle import ParamAttr
from paddle.regularizer import L2Decay

from ppcls_core.engine.optimizers import Adam, Momentum, Regularizer, RMSProp, make_optimizer
from ppcls_core.models.registry import build_model

CONFIGS = [Momentum(), RMSProp(), Adam(), Momentum(momentum=0.5), RMSProp(momentum=0.0)]
FACTORS = (1.0, 0.25, 1.0)  # learning-rate factors; the third parameter is never regularized
RATES = (0.1, 0.07, 0.02, 0.1)


def parameters():
    """Three parameters of eight numbers."""
    rng, made = np.random.default_rng(0), []
    for factor, regularizer in zip(FACTORS, (None, None, L2Decay(0.0)), strict=True):
        attr = ParamAttr(learning_rate=factor, regularizer=regularizer)
        parameter = paddle.create_parameter([2, 4], "float32", attr=attr)
        parameter.set_value(rng.normal(size=(2, 4)).astype(np.float32))
        made.append(parameter)
    return made


def gradients(step):
    return np.random.default_rng(100 + step).normal(size=(3, 2, 4)).astype(np.float32)


def take_steps(optimizer, learning):
    for step, lr in enumerate(RATES):
        for parameter, gradient in zip(learning, gradients(step), strict=True):
            (parameter * paddle.to_tensor(gradient)).sum().backward()
        optimizer.set_lr(lr)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)


class Formula:
    """The update of one parameter; `state` is what the optimizer remembers of it."""

    def __init__(self, config):
        self.config, self.first, self.second, self.steps = config, 0.0, 0.0, 0

    def change(self, g, lr):
        config, self.steps = self.config, self.steps + 1
        if isinstance(config, Momentum):
            self.first = config.momentum * self.first + g
            return lr * self.first
        if isinstance(config, RMSProp):
            self.second = config.rho * self.second + (1 - config.rho) * g**2
            root = np.sqrt(self.second + config.epsilon)
            self.first = config.momentum * self.first + lr * g / root
            return self.first
        self.first = config.beta1 * self.first + (1 - config.beta1) * g
        self.second = config.beta2 * self.second + (1 - config.beta2) * g**2
        mean = self.first / (1 - config.beta1**self.steps)
        return lr * mean / (np.sqrt(self.second / (1 - config.beta2**self.steps)) + config.epsilon)


def expected_values(config, regularizer, clip_norm):
    values = [p.numpy().astype(np.float64) for p in parameters()]
    formulas = [Formula(config) for _ in values]
    for step, lr in enumerate(RATES):
        grads = gradients(step).astype(np.float64)
        if clip_norm:
            grads = grads * clip_norm / max(clip_norm, np.sqrt((grads**2).sum()))
        for i, factor in enumerate(FACTORS):
            penalty = np.sign(values[i]) if regularizer.name == "L1" else values[i]
            g = grads[i] + (regularizer.factor * penalty if i < 2 else 0)
            values[i] = values[i] - formulas[i].change(g, lr * factor)
    return values


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize(
    "regularizer",
    [Regularizer(factor=0), Regularizer(name="L1", factor=0.05), Regularizer(factor=0.05)],
    ids=repr,
)
@pytest.mark.parametrize("clip_norm", [None, 1.5, 100.0])
def test_updates_are_those_of_the_formula(config, regularizer, clip_norm):
    learning = parameters()
    take_steps(make_optimizer(config, learning, regularizer, clip_norm), learning)
    for got, expected in zip(
        learning, expected_values(config, regularizer, clip_norm), strict=True
    ):
        assert np.allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=repr)
def test_state_is_there_before_the_first_step_under_the_same_names(config):
    first, second = (
        make_optimizer(config, learning, Regularizer(), None) for learning in [parameters()] * 2
    )
    names = set(first.state_dict())
    assert len(names) == {"Momentum": 3, "RMSProp": 9, "Adam": 12}[config.name]
    assert set(second.state_dict()) == names


@pytest.mark.parametrize("name", ["ResNet18_vd", "MobileNetV3_small_x0_35"])
def test_factors_of_a_network_scale_its_updates(name):
    factors = (0.0, 0.5, 0.5, 0.5, 0.5)
    moved = []
    for spec in ({}, {"lr_mult_list": factors}):
        paddle.seed(0)
        model = build_model(name, num_classes=3, spec=spec)
        learning = [p for p in model.parameters() if not p.stop_gradient]
        before = [p.numpy() for p in learning]
        optimizer = make_optimizer(Momentum(), learning, Regularizer(factor=0), None)
        paddle.add_n([p.sum() for p in learning]).backward()
        optimizer.set_lr(0.125)
        optimizer.step()
        moved.append([b - p.numpy() for b, p in zip(before, learning, strict=True)])
    ratios = {round(float((b / a).mean()), 3) for a, b in zip(*moved, strict=True)}
    assert ratios == {0.0, 0.5, 1.0}
