"""The moving average of the weights."""

import numpy as np
import paddle
import pytest

from ppcls_core.engine.averages import Average
from ppcls_core.models.networks.layers import ConvBN
from ppcls_core.models.weights.state import state_of


def network():
    paddle.seed(0)
    return ConvBN((3, 4), 1)


def move(model, seed):
    rng = np.random.default_rng(seed)
    for tensor in model.state_dict().values():
        tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))
    return state_of(model)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_average_is_that_of_the_formula(decay):
    model = network()
    expected, average = state_of(model), Average(model, decay)
    for step in range(12):
        now = move(model, step)
        used = min(decay, (1 + step) / (10 + step))
        expected = {n: used * expected[n] + (1 - used) * now[n] for n in now}
        average.update(step)
    assert set(average.values) == set(state_of(model))  # running statistics too
    for name, value in average.values.items():
        assert np.allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6)


def test_what_stands_still_keeps_its_bits():
    model = network()
    before, average = move(model, 0), None
    average = Average(model, 0.9999)
    for step in range(20):
        average.update(step)
    assert all(average.values[n].numpy().tobytes() == before[n].tobytes() for n in before)


def test_model_has_the_average_in_the_block_alone_even_after_an_error():
    model = network()
    average = Average(model, 0.5)
    started, own = state_of(model), move(model, 1)

    def judged():
        with average.in_model():
            assert all(np.array_equal(v, started[n]) for n, v in state_of(model).items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged()
    assert all(np.array_equal(v, own[n]) for n, v in state_of(model).items())
    average.enter_model()
    assert all(np.array_equal(v, started[n]) for n, v in state_of(model).items())
    average.values["conv.weight"].set_value(own["conv.weight"])
    assert np.array_equal(state_of(model)["conv.weight"], started["conv.weight"])  # a copy
