"""How stages read what other stages left: image sets, models, tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.images.columns import Images, Roots, read_images
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.accuracy import EvalData
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.state import load_weights
from ppcls_core.runtime.randomness import seed_of
from tasks.recipe import ModelConfig
from tasks.run.stage import Work

if TYPE_CHECKING:
    from ppcls_core.models.networks.layers import Network


def input_path(work: Work, name: str) -> Path:
    """The file `stage/file` of an earlier stage."""
    stage, _, file = name.partition("/")
    return work.inputs[stage].path(file)


def roots(work: Work) -> Roots:
    """Where the images of each root lie on this machine; those of a generated set in the store."""
    recorded = read_json(input_path(work, "data/roots.json"))
    return {name: str(work.inputs["data"].directory / path) for name, path in recorded.items()}


def images(work: Work, name: str) -> Images:
    """The images of the file `stage/file`."""
    return read_images(input_path(work, name), roots(work))


def table(work: Work, name: str) -> pa.Table:
    """The Parquet table `stage/file`."""
    return pq.read_table(input_path(work, name))


def num_classes(work: Work) -> int:
    """Number of classes of the labelled set."""
    return len(images(work, "data/train.arrow").classes)


def eval_data(work: Work, preprocess: Preprocess) -> EvalData:
    """The validation images, seen as `preprocess` says."""
    run_time = work.recipe.run_time
    val = images(work, "data/val.arrow")
    return EvalData(val, preprocess, run_time.workers, run_time.max_lost)


def new_model(work: Work, model: ModelConfig, role: str) -> Network:
    """A freshly initialised network; the same recipe, seed and `role` give the same weights."""
    import paddle  # here, as it takes seconds

    paddle.seed(seed_of(work.recipe.seed, role, "init"))
    return build_model(model.name, num_classes=num_classes(work), spec=model.spec)


def trained_model(work: Work, model: ModelConfig, weights: Path) -> Network:
    """The network of `model` in eval mode with the weights of a `.pdparams` file.

    Raises:
        UserError: the weights are of another architecture or number of classes.
    """
    network = new_model(work, model, "trained")
    try:
        load_weights(network, weights, allow_other_classes=False)
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
