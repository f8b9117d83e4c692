"""Objectives, which a training step minimises: from (model, batch) to the loss and the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_core.engine.device import DeviceBatch
from ppcls_core.engine.losses import LOSSES, LossName
from ppcls_core.models.networks.layers import normalize

AUXILIARY_WEIGHT = 0.3  # of GoogLeNet's auxiliary classifiers (Szegedy et al. 2014)
_Function = Callable[[paddle.nn.Layer, DeviceBatch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Objective:
    """From a model and a batch to a scalar to minimise, and the logits float32 [N, C], which carry
    no gradient. It asks the `teachers` in each step."""

    _function: _Function
    teachers: tuple[paddle.nn.Layer, ...] = ()

    def __call__(self, model: paddle.nn.Layer, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
        return self._function(model, batch)


def cross_entropy(smoothing: float) -> Objective:
    """Cross-entropy with the labels, with label smoothing; every image has a label.

    Of a mixed batch, the cross-entropies with both labels in the proportion of the mixture.
    """

    def objective(model: paddle.nn.Layer, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
        def loss(logits: Tensor) -> Tensor:
            own = _cross_entropies(logits, batch.labels, smoothing)
            if batch.other_labels is None or batch.weight is None:
                return own.mean()
            other = _cross_entropies(logits, batch.other_labels, smoothing)
            return (batch.weight * own + (1 - batch.weight) * other).mean()

        return _of_outputs(loss, model(normalize(batch.pixels, model)))

    return Objective(objective)


def distillation(
    teachers: Sequence[paddle.nn.Layer], loss: LossName, batch_norm: Literal["batch", "running"]
) -> Objective:
    """The student's divergence from a teacher on the same augmented images; labels are unused.

    With several teachers it is the mean of the divergences. That keeps each one as published; for
    `kl` and `ce` it has the same gradient as the mean of the teachers' probabilities.

    With `batch`, as published, a teacher normalises with the statistics of the batch; its dropout
    stays off and its running statistics stay as they are. The teachers are put into that mode for
    good.
    """
    for teacher in teachers:
        teacher.eval()
    kinds = paddle.nn.BatchNorm2D | paddle.nn.BatchNorm
    for layer in (layer for teacher in teachers for layer in teacher.sublayers()):
        if batch_norm == "batch" and isinstance(layer, kinds):
            layer.train()
            # Keeps the running statistics as they are; Paddle has no other way.
            layer._momentum = 1.0  # pyright: ignore[reportPrivateUsage]
    divergence = LOSSES[loss]

    def objective(model: paddle.nn.Layer, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
        with paddle.no_grad():
            targets = [t(normalize(batch.pixels, t)).astype("float32") for t in teachers]

        def mean_divergence(logits: Tensor) -> Tensor:
            return paddle.add_n([divergence(logits, q) for q in targets]) / len(targets)

        return _of_outputs(mean_divergence, model(normalize(batch.pixels, model)))

    return Objective(objective, tuple(teachers))


def replay(loss: LossName) -> Objective:
    """The student's divergence from the teacher's stored outputs, which the batch holds."""
    divergence = LOSSES[loss]

    def objective(model: paddle.nn.Layer, batch: DeviceBatch) -> tuple[Tensor, Tensor]:
        target = batch.targets
        assert target is not None
        return _of_outputs(
            lambda logits: divergence(logits, target), model(normalize(batch.pixels, model))
        )

    return Objective(objective)


def _cross_entropies(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """float32 [N]: of each image with its label, int64 [N]."""
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return losses.flatten()


def _of_outputs(
    loss: Callable[[Tensor], Tensor], outputs: Tensor | tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """(`loss` of the logits, these); a weighted sum of several outputs, such as GoogLeNet's.

    Both in float32, whatever the precision of the model.
    """
    every = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    with paddle.amp.auto_cast(enable=False):
        every = [logits.astype("float32") for logits in every]
        main, *auxiliary = map(loss, every)
        if auxiliary:
            main = main + AUXILIARY_WEIGHT * paddle.add_n(auxiliary)
    return main, every[0].detach()
