"""A model quantised to int8, also by training with int8's rounding, beside its other precisions.

In quantisation-aware training Paddle's tool (paddle.quantization) rounds the weights of
convolutions and linear layers per output channel and what goes into them per tensor, as int8 will;
the gradient passes through as if it had not (Jacob et al. 2017). The training is the project's one
loop.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import paddle
from paddle import nn
from paddle.nn.quant.quant_layers import FakeQuantChannelWiseAbsMax
from paddle.quantization import QAT, BaseQuanter, QuantConfig
from paddle.quantization.factory import QuanterFactory
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver

from data_catalog.base.config import UserError
from data_catalog.base.errors import settings_named
from data_catalog.base.files import write_csv
from data_catalog.base.words import counted
from data_catalog.images.columns import Images
from data_catalog.recipes import newest_images
from ppcls_core.engine import run as engine
from ppcls_core.engine.config import LabelTraining
from ppcls_core.engine.evaluator import EvalData
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.precision import Precision
from ppcls_core.engine.schedules import CosineWarmup
from ppcls_core.inference.export import export
from ppcls_core.inference.inputs import given_images
from ppcls_core.inference.int8 import AWARE, COMPARED, lacks_vnni
from ppcls_core.inference.predictor import has_fast_bf16
from ppcls_core.inference.quantize import Calibration, quantize, read_calibration
from ppcls_core.inference.variants import Compared, compare, variants_of
from ppcls_core.jobs.job import Job
from ppcls_core.jobs.train import images_of
from ppcls_core.jobs.trained import Trained
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.randomness import seed_of

LR_SHARE = 0.1  # of the training's own rate: the weights are nearly where they should be
BITS = 8


@dataclass(frozen=True)
class Quantization:
    """A model to quantise into the folder `out`, and with which images."""

    trained: Trained  # the images of whose job calibrate and compare
    out: Path
    calibration: Path | None  # other images to calibrate with
    num_images: int  # to calibrate with
    epochs: int | None  # of quantisation-aware training, if any
    threads: int


def run(asked: Quantization, monitor: Monitor) -> list[Compared]:
    """Write the exported and the int8 model, and COMPARED: the rows returned, one a variant. Raises
    UserError: no images to calibrate with, or a training asked for that the job does not have."""
    with settings_named(asked.trained.job.key):
        return _run(asked, monitor)


def _run(asked: Quantization, monitor: Monitor) -> list[Compared]:
    trained, job = asked.trained, asked.trained.job
    if asked.epochs:
        qat_training(job, asked.epochs)
    found, val = _images(asked, monitor), _val(trained)
    images = read_calibration(found, trained.preprocess, asked.num_images, asked.threads)
    monitor.note(_described(images, asked.num_images))
    if lacks_vnni():
        monitor.note(
            "this processor has no VNNI: int8 is less exact here than on one that has, as sums of "
            "products are cut off at 16 bits; the accuracies below are of this processor"
        )
    if not has_fast_bf16(on_gpu=False):
        monitor.note("bf16 is not compared: this processor does not compute in it")
    aware = asked.out / AWARE if asked.epochs else None
    models = {asked.out: trained.network()}
    if aware and asked.epochs:
        # Before the inference engine has run, which gives trainings other bits.
        models[aware] = train_aware(trained.network(), job, asked.epochs, monitor)
    for directory, network in models.items():
        export(network, trained.sidecar(), directory)
        quantize(network, images, directory)
    rows = compare(variants_of(asked.out, aware), val, asked.threads)
    write_csv(asked.out / COMPARED, list(asdict(rows[0])), map(asdict, rows))
    return rows


def _images(asked: Quantization, monitor: Monitor) -> Images:
    """The images to choose from. Raises UserError if there are none."""
    job, recipe = asked.trained.job, asked.trained.recipe
    if asked.calibration:
        given = given_images([str(asked.calibration)])
        if given.lost:
            monitor.note(given.lost)
        return given.sets[0][1]
    if recipe and (images := newest_images(recipe, "train")):
        monitor.note(f"calibration: the labelled images of the recipe {recipe}")
        return images
    if job.train is None:
        raise UserError(
            "no calibration images: give --calibration with a folder or a list of some hundred "
            "images such as the model will see"
        )
    return images_of(job, "train")[0]


def _val(trained: Trained) -> Images | None:
    """The images to compare accuracies on, if the job or the recipe names some."""
    if trained.recipe:
        return newest_images(trained.recipe, "val")
    return images_of(trained.job, "val")[0] if trained.job.val else None


def _described(images: Calibration, most: int) -> str:
    few = f", all that there are (at most {most:,} are taken)" if images.num_images < most else ""
    bad = f"; {images.unreadable:,} more could not be read" if images.unreadable else ""
    return f"calibrates with {counted(images.num_images, 'image')}{few}{bad}"


def qat_training(job: Job, epochs: int) -> LabelTraining:
    """The job's training as it goes on with rounding: fp32, at LR_SHARE, along a cosine to 0.
    Raises UserError: the job does not train on labels, or names no images."""
    if job.training is None or job.train is None or job.val is None:
        raise UserError(
            "--qat: goes on with a training on labels: expected a YAML file with `training`, "
            "`train` and `val`, and no teacher"
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

    An interrupted training begins anew. Raises Interrupted: a stop was requested; UserError: as
    `qat_training`, or the data is not usable.
    """
    config = qat_training(job, epochs)
    assert job.train
    assert job.val
    images, val = images_of(job, "train", "val")
    round_in_training(model)
    with tempfile.TemporaryDirectory() as folder:
        data = EvalData(val, job.preprocess, job.workers, job.max_lost)
        run = engine.Run(images, data, config, seed_of(job.seed, "qat"), Path(folder), monitor)
        engine.train(model, cross_entropy(config.label_smoothing), run)
    state = state_of(model)
    network = build_model(job.model.name, num_classes=job.num_classes, spec=job.model.spec)
    for name, tensor in network.state_dict().items():  # without those of the rounding
        tensor.set_value(state[name])
    network.eval()
    return network


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

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        return self._round(input)

    def scales(self) -> paddle.Tensor:
        scale = self._round._scale  # pyright: ignore[reportPrivateUsage]  # Paddle has no other way
        assert scale is not None  # made with `channel_num`
        return scale

    def zero_points(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # symmetric
        return None

    def quant_axis(self) -> int:
        return self._axis

    def bit_length(self) -> int:
        return BITS


class _PerChannel(QuanterFactory):
    """Makes the quanter of each layer."""

    # Paddle's own raises NotImplementedError, from which its type is inferred.
    def _get_class(self) -> type[BaseQuanter]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _PerChannelQuanter
