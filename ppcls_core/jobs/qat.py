"""Quantisation-aware training: a network learns to bear the rounding to int8.

Paddle's tool (paddle.quantization) rounds, in training, the weights of convolutions and linear
layers per output channel and what goes into them per tensor, as int8 will; the gradient passes
through as if it had not (Jacob et al. 2017). The training is the project's one loop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import nn
from paddle.nn.quant.quant_layers import FakeQuantChannelWiseAbsMax
from paddle.quantization import QAT, BaseQuanter, QuantConfig
from paddle.quantization.factory import QuanterFactory
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

from data_catalog.base.config import UserError
from ppcls_core.engine.config import LabelTraining
from ppcls_core.engine.evaluator import EvalData
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.run import Run, train
from ppcls_core.engine.schedules import CosineWarmup
from ppcls_core.jobs.job import Job
from ppcls_core.jobs.train import images_of
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.randomness import seed_of

LR_SHARE = 0.1  # of the training's own rate: the weights are nearly where they should be
BITS = 8


def qat_training(job: Job, epochs: int) -> LabelTraining:
    """The job's training as it goes on with rounding: fp32, at LR_SHARE, along a cosine to 0.

    Raises:
        UserError: the job does not train on labels, or names no images.
    """
    if job.training is None or job.train is None or job.val is None:
        raise UserError(
            "quantisation-aware training goes on with a training on labels: expected a YAML file "
            "with `training`, `train` and `val` (PaddleClas's: TRAIN and VALID, no teacher)"
        )
    update = {
        "epochs": epochs,
        "lr": LR_SHARE * job.training.lr,
        "schedule": CosineWarmup(warmup_epochs=0),
        "ema_decay": None,
        "precision": Precision(),
        "eval_every": epochs,
    }
    return job.training.model_copy(update=update)


def train_aware(model: Network, job: Job, epochs: int, monitor: Monitor) -> Network:
    """A network like `model`, the job's, trained on from its weights; `model` is used up.

    An interrupted training begins anew.

    Raises:
        Interrupted: a stop was requested.
        UserError: as `qat_training`, or the data is not usable.
    """
    config = qat_training(job, epochs)
    assert job.train
    assert job.val
    val = images_of(job.val, job.num_classes)
    images = images_of(job.train, job.num_classes)
    round_in_training(model)
    with tempfile.TemporaryDirectory() as folder:
        data = EvalData(val, job.preprocess, job.workers, job.max_lost)
        run = Run(images, data, config, seed_of(job.seed, "qat"), Path(folder), monitor)
        train(model, cross_entropy(config.label_smoothing), run)
    return _without_rounding(model, job)


def round_in_training(model: Network) -> None:
    """Let the convolutions and linear layers of `model` compute with what int8 can hold."""
    model.train()
    config = QuantConfig(activation=None, weight=None)  # all layers that are not named
    config.add_type_config(
        [nn.Conv2D, nn.Linear],
        activation=FakeQuanterWithAbsMaxObserver(moving_rate=0.9, bit_length=BITS),
        weight=_PerChannel(),
    )
    QAT(config).quantize(model, inplace=True)


def _without_rounding(model: nn.Layer, job: Job) -> Network:
    """The network of the job with the weights that `model` has learnt."""
    state = state_of(model)
    network = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    for name, tensor in network.state_dict().items():
        tensor.set_value(state[name])
    network.eval()
    return network


class _PerChannelQuanter(BaseQuanter):
    """Rounds a layer's weights, each output channel by its own largest value."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        weight = layer.weight
        self._axis = 1 if isinstance(layer, nn.Linear) else 0
        self._round = FakeQuantChannelWiseAbsMax(
            channel_num=weight.shape[self._axis],
            quant_bits=BITS,
            quant_axis=self._axis,
            quant_on_weight=True,
        )

    def forward(self, weight: paddle.Tensor) -> paddle.Tensor:
        return self._round(weight)

    def scales(self) -> paddle.Tensor | None:
        return self._round._scale

    def zero_points(self) -> None:
        return None

    def quant_axis(self) -> int:
        return self._axis

    def bit_length(self) -> int:
        return BITS


class _PerChannel(QuanterFactory):
    """Makes the quanter of each layer."""

    def _get_class(self) -> Callable[[nn.Layer], BaseQuanter]:
        return _PerChannelQuanter
