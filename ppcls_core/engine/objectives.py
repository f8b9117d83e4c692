"""What a training step minimises: an objective maps (model, images, labels) to a scalar loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_core.losses import LOSSES, LossName

AUXILIARY_WEIGHT = 0.3  # of GoogLeNet's auxiliary classifiers (Szegedy et al. 2014)
Objective = Callable[[paddle.nn.Layer, Tensor, Tensor], Tensor]


def cross_entropy(smoothing: float) -> Objective:
    """Cross-entropy with the labels, with label smoothing; every image has a label."""

    def objective(model: paddle.nn.Layer, images: Tensor, labels: Tensor) -> Tensor:
        return _of_outputs(
            lambda logits: F.cross_entropy(logits, labels, label_smoothing=smoothing),
            model(images),
        )

    return objective


def distillation(
    teacher: paddle.nn.Layer, loss: LossName, batch_norm: Literal["batch", "running"]
) -> Objective:
    """The student's divergence from the teacher on the same augmented images; labels are unused.

    With `batch`, as published, the teacher normalises with the statistics of the batch; its dropout
    stays off and its running statistics stay as they are. The teacher is put into that mode for
    good.
    """
    teacher.eval()
    if batch_norm == "batch":
        for layer in teacher.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D | paddle.nn.BatchNorm):
                layer.train()
                layer._momentum = 1.0  # keeps the running statistics as they are
    divergence = LOSSES[loss]

    def objective(model: paddle.nn.Layer, images: Tensor, labels: Tensor) -> Tensor:
        with paddle.no_grad():
            target = teacher(images)
        return _of_outputs(lambda logits: divergence(logits, target), model(images))

    return objective


def _of_outputs(loss: Callable[[Tensor], Tensor], outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """`loss` of the logits; a weighted sum of several outputs, such as GoogLeNet's in training."""
    if isinstance(outputs, Tensor):
        return loss(outputs)
    main, *auxiliary = map(loss, outputs)
    return main + AUXILIARY_WEIGHT * paddle.add_n(auxiliary)
