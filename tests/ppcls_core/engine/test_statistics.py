"""Running statistics do not depend on how a batch is divided."""

import numpy as np
import paddle

from ppcls_core.engine.averages import RunningStatistics


def network():
    norms = [paddle.nn.BatchNorm2D(3), paddle.nn.BatchNorm(2)]
    return paddle.nn.Sequential(paddle.nn.Conv2D(3, 3, 1), norms[0], norms[1], paddle.nn.ReLU())


def test_they_are_read_and_written_in_one_vector():
    model = network()
    statistics = RunningStatistics(model, True)
    assert statistics.read().numpy().tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    values = np.arange(10) / 3
    statistics.write(paddle.to_tensor(values))
    assert model[1]._mean.numpy().tolist() == values[:3].astype(np.float32).tolist()
    assert model[2]._variance.numpy().tolist() == values[8:].astype(np.float32).tolist()
    assert statistics.read().numpy().tolist() == values.astype(np.float32).tolist()


def test_a_batch_in_one_part_has_none():
    statistics = RunningStatistics(network(), False)
    assert statistics.read().shape == [0]
    statistics.write(paddle.zeros([0], "float64"))


def test_layers_in_eval_mode_are_left_alone():
    model = network()
    model[1].eval()
    assert RunningStatistics(model, True).read().shape == [4]
    assert not RunningStatistics(paddle.nn.Sequential(paddle.nn.ReLU()), True).read().shape[0]
