"""The networks of a recipe, new or with the weights that a stage or the user gives."""

from __future__ import annotations

from pathlib import Path

import paddle

from data_catalog.base.config import UserError
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import load_weights
from ppcls_core.runtime.randomness import seed_of
from tasks.recipe import ModelConfig
from tasks.run.stage import Work
from tasks.stages.inputs import num_classes


def new_model(work: Work, model: ModelConfig, role: str) -> Network:
    """A freshly initialised network; the same recipe, seed and `role` give the same weights."""
    paddle.seed(seed_of(work.recipe.seed, role, "init"))
    return build_model(model.name, num_classes=num_classes(work), spec=model.spec)


def trained_model(work: Work, model: ModelConfig, weights: Path) -> Network:
    """The network of `model` in eval mode with `weights`, as in `load_state`.

    Raises:
        UserError: the weights are of another architecture or number of classes.
    """
    network = new_model(work, model, "trained")
    try:
        load_weights(network, weights)
    except UserError as error:
        raise UserError(
            f"{error}\n({model.name} with the {num_classes(work)} classes of the data set was "
            "expected: weights must be of this architecture and of these classes)"
        ) from None
    network.eval()
    return network


def teacher_model(work: Work) -> Network:
    """The teacher with its weights, in eval mode."""
    weights = work.inputs["teacher"].path("model.pdparams")
    return trained_model(work, work.recipe.teacher.model, weights)


def new_student(work: Work) -> Network:
    """The student before training; baseline and distill start from the same weights."""
    return new_model(work, work.recipe.student, "student")


def student_of(work: Work, stage: str) -> Network:
    """The student as an earlier stage left it, in eval mode."""
    return trained_model(work, work.recipe.student, work.inputs[stage].path("model.pdparams"))
